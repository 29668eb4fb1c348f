"""Anchors on three kinds of tokenizer: nothing may slip by one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import byte_level_tokenizer, character_tokenizer, metaspace_tokenizer

from geomrl.errors import GeomrlError
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.anchors import DEFAULT_ANCHORS, FIXED, anchor_order, check_anchor, find_anchors
from geomrl.verify.marker import parse_marker

BOX = parse_marker("\\boxed{")
TOKENIZERS = {
    "byte_level": byte_level_tokenizer(),
    "metaspace": metaspace_tokenizer(),
    "character": character_tokenizer(),
}
BYTES = {name: TokenBytes(tokenizer) for name, tokenizer in TOKENIZERS.items()}
each_tokenizer = pytest.mark.parametrize("kind", list(TOKENIZERS))

text_pieces = st.lists(
    st.sampled_from(
        ["so ", "the total is", " ", "\n\n", "日本", "語", "🙂", "é", "42", "{", "}", "\\frac{1}{2}",
         "\\boxed{7}", "\\boxed{", "$", "\\(", "thus", "</think>", "\\"]
    ),
    max_size=8,
)  # fmt: skip
answers = st.sampled_from(
    [
        "42",
        "-3",
        "\\frac{1}{2}",
        "{1}",
        "日本",
        "🙂",
        "x = \\boxed{7}",
        "\\{1, 2\\}",
        " 5 ",
        "{{9}}",
    ]
)


def ids_of(kind, text):
    return TOKENIZERS[kind](text, add_special_tokens=False)["input_ids"]


def spelled(kind, ids):
    return b"".join(BYTES[kind][i] for i in ids)


def find(kind, text, names, **options):
    return {
        anchor.name: anchor
        for anchor in find_anchors(BYTES[kind], ids_of(kind, text), BOX, names, **options)
    }


@each_tokenizer
@given(before=text_pieces, after=text_pieces)
@settings(max_examples=60, deadline=None)
def test_bytes_spell_the_text(kind, before, after):
    text = "".join(before + after)
    kept = spelled(kind, ids_of(kind, text)).decode()
    # SentencePiece puts a space before the first word and merges runs of spaces into it.
    want = TOKENIZERS[kind].decode(ids_of(kind, text), clean_up_tokenization_spaces=False)
    assert kept.removeprefix(" " if kind == "metaspace" else "") == want
    if kind != "metaspace":
        assert kept == text


@each_tokenizer
@given(before=text_pieces, answer=answers, after=text_pieces)
@settings(max_examples=120, deadline=None)
def test_anchor_invariants(kind, before, answer, after):
    text = "".join(before) + "\\boxed{" + answer + "}" + "".join(after)
    ids = ids_of(kind, text)
    said = spelled(kind, ids)
    span = BOX.find(said.decode())
    if span is None:  # a piece after it may open a brace that swallows the box
        anchors = find(kind, text, DEFAULT_ANCHORS)
        assert anchors["before_marker"].reason == "no_closed_marker"
        return
    start, opened, first, last = (
        len(said.decode()[:offset].encode())
        for offset in (span.start, span.open_end, span.answer_start, span.answer_end)
    )
    ends = [len(spelled(kind, ids[: j + 1])) for j in range(len(ids))]
    starts = [0, *ends[:-1]]
    at = {name: anchor.token_index for name, anchor in find(kind, text, DEFAULT_ANCHORS).items()}

    before_marker = at["before_marker"]
    assert before_marker >= -1
    if before_marker >= 0:
        assert ends[before_marker] <= start  # its text ends at or before the marker
    assert starts[before_marker + 1] <= start < ends[before_marker + 1]  # and the next reaches in
    assert starts[at["marker_end"]] < opened <= ends[at["marker_end"]]
    for k in (1, 2, 4):
        expected = before_marker - k if before_marker - k >= -1 else None
        assert at[f"before_marker-{k}"] == expected
    if before_marker >= 0:
        assert at["fraction:0"] == 0
        assert 0 <= at["fraction:0.25"] <= at["fraction:0.75"] <= before_marker
    if last > first:
        assert starts[at["answer_last"]] < last <= ends[at["answer_last"]]
        whole = at["before_answer"]
        if whole is not None:
            assert first <= starts[whole + 1] < last
            assert whole < 0 or starts[whole] < first
            assert whole in (at["marker_end"], at["marker_end"] + 1)
    assert at["response_last"] == len(ids) - 1


@each_tokenizer
def test_marker_at_token_0_is_the_prompts_last_token(kind):
    # SentencePiece writes a space before the first word: there the marker's own token holds it.
    anchors = find(kind, "\\boxed{42}", ["before_marker", "before_marker-1", "fraction:0.5"])
    assert anchors["before_marker"].token_index == -1 or kind == "metaspace"
    if anchors["before_marker"].token_index == -1:
        assert anchors["before_marker"].flags == ("at_prompt",)
        assert anchors["before_marker-1"].reason == "before_the_response"
        assert anchors["fraction:0.5"].reason == "nothing_before_marker"


def test_brace_merged_with_the_answer_is_flagged():
    tokenizer = byte_level_tokenizer(corpus=["{\\frac{1}{2}} {\\frac "] * 50, vocab_size=280)
    ids = tokenizer("so \\boxed{\\frac{1}{2}}", add_special_tokens=False)["input_ids"]
    tokens = TokenBytes(tokenizer)
    pieces = [tokens[i] for i in ids]
    merged = next(j for j, piece in enumerate(pieces) if piece.startswith(b"{\\"))
    names = ["marker_end", "before_answer"]
    end, before_answer = find_anchors(tokens, ids, BOX, names)
    assert end.token_index == merged
    assert end.flags == ("merged_right",)
    assert before_answer.token_index == merged  # the next token is the first that is answer alone
    plain, _ = find_anchors(BYTES["character"], ids_of("character", "\\boxed{42}"), BOX, names)
    assert plain.flags == ()


@each_tokenizer
def test_last_of_two_boxes_and_outermost_of_nested_ones(kind):
    two = "\\boxed{1} no, so \\boxed{22}"
    index = find(kind, two, ["before_marker"])["before_marker"].token_index
    assert spelled(kind, ids_of(kind, two)[: index + 1]).decode().strip().endswith("so")
    nested = "so \\boxed{x = \\boxed{7}}"
    at = find(kind, nested, ["before_marker", "answer_last"])
    said = spelled(kind, ids_of(kind, nested)[: at["before_marker"].token_index + 1])
    assert said.decode().strip() == "so"
    said = spelled(kind, ids_of(kind, nested)[: at["answer_last"].token_index + 1])
    assert said.decode().rstrip("}").endswith("\\boxed{7")


@each_tokenizer
def test_character_split_over_tokens_before_the_marker(kind):
    text = "答えは🙂\\boxed{日本}"
    tokenizer = TOKENIZERS[kind] if kind != "character" else character_tokenizer(sorted(set(text)))
    tokens = TokenBytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert kind == "character" or len(ids) > len(text)  # at least one character is split
    before, last = find_anchors(tokens, ids, BOX, ["before_marker", "answer_last"])
    said = b"".join(tokens[i] for i in ids[: before.token_index + 1])
    assert said.decode().strip() == "答えは🙂"
    said = b"".join(tokens[i] for i in ids[: last.token_index + 1])
    assert said.decode().strip() == "答えは🙂\\boxed{日本"


def test_bytes_that_are_no_text_move_nothing():
    tokenizer = TOKENIZERS["byte_level"]
    broken = ids_of("byte_level", "🙂")[:-1]
    ids = [*ids_of("byte_level", "so "), *broken, *ids_of("byte_level", "\\boxed{42}")]
    [before] = find_anchors(TokenBytes(tokenizer), ids, BOX, ["before_marker"], answer="42")
    assert before.token_index == len(ids_of("byte_level", "so ")) + len(broken) - 1


def test_end_of_sequence_is_left_out():
    tokenizer = TOKENIZERS["byte_level"]
    stop = frozenset([tokenizer.eos_token_id])
    ids = ids_of("byte_level", "so \\boxed{42}.")
    ended = [*ids, tokenizer.eos_token_id, tokenizer.eos_token_id]
    [last] = find_anchors(BYTES["byte_level"], ended, BOX, ["response_last"], stop_ids=stop)
    assert last.token_index == len(ids) - 1


def test_think_end():
    text = "<think>3 + 4</think>\nso \\boxed{7}"
    index = find("character", text, ["think_end"])["think_end"].token_index
    assert text[: index + 1].endswith("</think>")
    assert find("character", "so \\boxed{7}", ["think_end"])["think_end"].reason == "no_think_end"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_response"),
        ("so 42", "no_closed_marker"),
        ("so \\boxed{42", "no_closed_marker"),
        ("so \\boxed{}", "no_closed_marker"),
    ],
)
def test_every_absence_has_a_reason(text, reason):
    anchors = find("character", text, DEFAULT_ANCHORS)
    assert anchors["before_marker"].token_index is None
    assert anchors["before_marker"].reason == reason


def test_ids_that_say_something_else_than_the_text_get_no_anchor():
    ids = ids_of("character", "so \\boxed{42}")
    [anchor] = find_anchors(BYTES["character"], ids, BOX, ["before_marker"], answer="43")
    assert anchor.reason == "ids_differ_from_text"
    [anchor] = find_anchors(BYTES["character"], ids, BOX, ["before_marker"], answer=" 42")
    assert anchor.token_index == 2


def test_other_markers():
    [anchor] = find_anchors(
        BYTES["character"], ids_of("character", "so <answer>42</answer>"),
        parse_marker("<answer>...</answer>"), ["marker_end"],
    )  # fmt: skip
    assert anchor.token_index == len("so <answer>") - 1


def test_names_are_checked_and_ordered():
    assert sorted(DEFAULT_ANCHORS, key=anchor_order) == list(DEFAULT_ANCHORS)
    assert len({anchor_order(name) for name in FIXED}) == len(FIXED)
    for bad in ("before", "fraction:1.5", "before_marker--1", "fraction:x"):
        with pytest.raises(GeomrlError, match="unknown"):
            check_anchor(bad)
