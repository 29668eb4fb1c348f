"""Markers that quote the instruction, spellings of the marker, and where a turn ends."""

import pytest
from small_runs import write_lines
from tiny import build_model, byte_level_tokenizer
from typer.testing import CliRunner

from geomrl.cli.app import app
from geomrl.models.loading import load_tokenizer
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import find_anchors
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_verdicts
from geomrl.runs.run import open_run
from geomrl.stats.majority import majority_at_k
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.verifier import Grade, MathVerifier

TOKENIZER = byte_level_tokenizer()
TOKENS = TokenBytes(TOKENIZER)
END = TOKENIZER.eos_token_id


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def content(text, spec=BOXED):
    span = parse_marker(spec).find(text)
    return None if span is None else text[span.answer_start : span.answer_end]


def grade(response, gold="15", spec=BOXED):
    with MathVerifier(spec, workers=1) as verifier:
        return verifier.grade([response], [gold])[0]


def place(ids, name, **options):
    return find_anchors(TOKENS, ids, parse_marker(BOXED), [name], **options)[0]


BLANK = [
    r"\boxed{}", r"\boxed{ }", "\\boxed{\n\t}", r"\boxed{\ }", r"\boxed{\,\;}", r"\boxed{~}",
    r"\boxed{$ $}", r"\boxed{$$}", r"\boxed{\(\)}", r"\boxed{\text{}}", r"\boxed{\text{ }}",
    r"\boxed{\mathrm{}}", r"\boxed{{}}", r"\boxed{\quad}", r"\boxed{\hspace{2cm}}",
    r"\boxed{\phantom{15}}", r"\boxed{\boxed{}}", r"\boxed {}", r"\fbox{}", r"\boxed{...}",
    "\\boxed{…}", r"\boxed{\ldots}", r"\boxed{____}", r"\boxed{\_\_\_}", "\\boxed{\u200b}",
]  # fmt: skip
FULL = ["0", "-", r"\emptyset", r"\{\}", "()", "?", "answer", ".5", r"\text{no}", "1, 2, \\ldots"]


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_box_is_no_answer(blank):
    truncated = f"<think>The task says to put the answer within {blank}. Let me"
    assert content(truncated) is None
    assert grade(truncated) == Grade("no_answer", None)
    assert place(ids_of(truncated), "before_marker").reason == "no_closed_marker"


@pytest.mark.parametrize("blank", BLANK)
def test_the_answer_before_a_blank_box_stands(blank):
    text = f"\\boxed{{15}}. (The answer is in {blank} as you asked.)"
    assert grade(text) == Grade("correct", "15")
    # Anchors lie at the same box.
    assert place(ids_of("so " + text), "before_marker").token_index == len(ids_of("so")) - 1


@pytest.mark.parametrize("answer", FULL)
def test_what_says_something_is_an_answer(answer):
    assert content(f"\\boxed{{{answer}}}") == answer


@pytest.mark.parametrize(
    ("spec", "text", "answer"),
    [
        ("<answer>...</answer>", "<answer>15</answer>, in <answer></answer> tags", "15"),
        ("<answer>...</answer>", "put it into <answer> ... </answer>", None),
        (r"re:####\s*(.*)", "#### 15\nafter ####", "15"),
        (r"re:Answer:(.*)", "Answer: $ $", None),
    ],
)
def test_blank_markers_of_other_kinds_are_passed_over(spec, text, answer):
    assert content(text, spec) == answer


def test_blank_answers_agree_with_nothing():
    with MathVerifier(workers=1) as verifier:
        grades = verifier.grade(
            [r"\boxed{}", r"\boxed{ }", r"\boxed{15}", r"\boxed{14}"], ["15"] * 4
        )
        classes = verifier.answer_classes(grades)
        assert classes == [None, None, 0, 1]
        # One voter for 15, one for 14, and two who say nothing.
        assert majority_at_k([classes], 4)[0] == 0.5
        # Tables of earlier versions hold blank answers with the verdict "wrong".
        old = [Grade("wrong", ""), Grade("wrong", "14"), Grade("wrong", "\\ ")]
        assert verifier.answer_classes(old) == [None, 1, None]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"`\boxed{` for it. \boxed{5} … x}", "5"),
        (r"I use \boxed{ for the answer. \boxed{5} as {x}. }", "5"),
        (r"\boxed{ is where it goes: \boxed{4}, no, \boxed{5}. Done }", "5"),
        ("答案放在 \\boxed{ 里面。\\boxed{5} 完}", "5"),
        (r"\boxed{5}, which I put into `\boxed{` as asked, see {x}. }", "5"),
        (r'"\boxed{" takes the answer. \boxed{5} }', "5"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed{ \boxed{5} }", r" \boxed{5} "),
        (r"\boxed{\boxed{3} \text{ and } \boxed{4}}", r"\boxed{3} \text{ and } \boxed{4}"),
        (r"\boxed{\frac{\boxed{1}}{2}}", r"\frac{\boxed{1}}{2}"),
        (r"\text{Answer: \boxed{15}}", "15"),
        (r"\boxed{\text{The sum is }15}", r"\text{The sum is }15"),
    ],
)
def test_an_opening_that_is_quoted_swallows_no_later_box(text, answer):
    assert content(text) == answer


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"Answer: \boxed {15}", "correct"),
        ("Answer: \\boxed\n{15}", "correct"),
        (r"Answer: \\boxed {15}", "correct"),
        (r"Answer: \fbox{15}", "correct"),
        (r"Answer: \fbox {15}", "correct"),
        (r"\fbox{14} \boxed{15} \fbox{13}", "correct"),  # \fbox counts where no \boxed does
        (r"as \boxed{}: \fbox{15}", "correct"),
        (r"Answer: \fbox{14}", "wrong"),
        (r"Answer: $\boxed 15$", "no_answer"),  # TeX would frame the 1 alone
    ],
)
def test_spellings_of_the_box(text, verdict):
    assert grade(text).verdict == verdict


@pytest.mark.parametrize("box", [r"\boxed{", r"\boxed {", "\\boxed  {", r"\fbox{"])
def test_anchors_of_every_spelling(box):
    text = f"so it is {box}15}}."
    ids = ids_of(text)
    said = [b"".join(TOKENS[i] for i in ids[: j + 1]).decode() for j in range(len(ids))]
    before, end = place(ids, "before_marker").token_index, place(ids, "marker_end").token_index
    # The last token that ends before the command, and the token that holds its brace.
    opens = text.index("\\")
    assert len(said[before]) <= opens < len(said[before + 1])
    assert said[end - 1].count("{") == 0
    assert said[end].count("{") == 1


@pytest.mark.parametrize(
    "behind", ["", "\n", "</s></s>", "\nuser\nNext question</s>", "\nuser\n\\boxed{16}</s>"]
)
def test_a_turn_ends_at_its_first_end_token(behind):
    text = "It is \\boxed{15}."
    ids = [*ids_of(text), END, *ids_of(behind)]
    assert END in ids
    last = len(ids_of(text)) - 1
    options = {"stop_ids": frozenset({END})}
    assert place(ids, "response_last", **options).token_index == last
    before = place(ids_of(text), "before_marker").token_index
    assert place(ids, "before_marker", **options, answer="15").token_index == before


NEXT_TURN = "It is $\\boxed{15}$.<|im_end|>\n<|im_start|>user\nSure? \\boxed{16}<|im_end|>"


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tokenizer whose end of turn stands in its chat template alone, as base models have it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = build_model(vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("response", [NEXT_TURN, NEXT_TURN.partition("\n")[0] + "</s></s>"])
def test_an_imported_response_ends_with_its_turn(chat_model, tmp_path, response):
    """Neither graded nor read behind its end: not a 16 that somebody else asks about."""
    path = write_lines(
        tmp_path / "r.jsonl", [{"problem": "10 + 5?", "gold": "15", "response": response}] * 2
    )
    arguments = ["probe", chat_model, "--rollouts", path, "--out", tmp_path / "run",
                 "--layers", "final", "--anchors", "before_marker,response_last"]  # fmt: skip
    CliRunner().invoke(app, [str(a) for a in arguments])
    run = open_run(tmp_path / "run")
    assert run.rollouts["verdict"].tolist() == ["correct", "correct"]
    rows = run.store().rows()
    last = rows[rows["anchor"] == "response_last"]["token_index"].tolist()
    tokenizer = load_tokenizer(str(chat_model))
    before_end = tokenizer("It is $\\boxed{15}$.", add_special_tokens=False)["input_ids"]
    assert last == [len(before_end) - 1] * 2
    assert rows[rows["anchor"] == "before_marker"]["token_index"].notna().all()
    with MathVerifier(workers=1) as verifier:
        [graded] = import_verdicts(path, verifier, ImportConfig()).values()
    assert graded["verdict"].tolist() == ["correct", "correct"]
