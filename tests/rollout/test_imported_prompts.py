"""Prompts of other tools: what the policy saw, with its tokens, or a refusal that says what is amiss."""

import json

import pandas as pd
import pytest
from commands import geomrl
from small_runs import save_model, write_lines
from tiny import byte_level_tokenizer
from tokenizers import AddedToken, processors

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet
from geomrl.problems.prompts import render_prompt
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_rollouts, import_verdicts

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
QUESTION = "What is 2+2?"
USER = {"role": "user", "content": QUESTION}
ANSWER = {"role": "assistant", "content": "It is \\boxed{4}"}
SEEN = (
    "<|im_start|>system\nBe kind.<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)
STRIPPED = SEEN.replace("<|im_start|>", "").replace("<|im_end|>", "")


def build_tokenizer(template=CHATML, begin=False):
    """A byte-level tokenizer with ChatML's special tokens; `begin`: it puts `<s>` in front."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")],
        special_tokens=True,
    )
    tokenizer.chat_template = template
    if begin:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return tokenizer


TOKENIZER = build_tokenizer()


@pytest.fixture
def read(tmp_path, verifier):
    """Import lines; `said` collects what the user is shown."""

    def read(lines, tokenizer=TOKENIZER, said=None, **config):
        path = write_lines(tmp_path / "r.jsonl", lines)
        told = {} if said is None else {"say": said.append}
        return import_rollouts(path, tokenizer, verifier, ImportConfig(**config), **told)

    return read


def line(prompt, response=ANSWER["content"], **more):
    return {"prompt": prompt, "response": response, "gold": "4", **more}


# chats


@pytest.mark.parametrize(
    "prompt",
    [[USER], json.dumps([USER]), str([USER]), [json.dumps([USER])], json.dumps(USER),
     [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]],
    ids=["list", "JSON", "Python", "JSON in a list", "one message", "parts"],
)  # fmt: skip
def test_a_chat_in_every_form_goes_through_the_template(prompt, read):
    table = read([line(prompt)])
    assert table["prompt"].tolist() == [SEEN]
    assert TOKENIZER.decode(table["prompt_ids"].iloc[0]) == SEEN


def test_text_in_brackets_is_no_chat(read):
    assert read([line(SEEN.replace(QUESTION, "[1, 2]?"))])["prompt_kind"].tolist() == ["raw"]


def test_an_answer_at_the_end_of_the_chat_is_no_prompt(read):
    with pytest.raises(GeomrlError, match=r"row 1: its messages end with the assistant's turn"):
        read([{"messages": [USER, ANSWER], "response": ANSWER["content"], "gold": "4"}])
    # A beginning that the policy was given, of which nobody knows how it was written.
    with pytest.raises(GeomrlError, match=r"its messages end with the assistant's turn"):
        read([line([USER, {"role": "assistant", "content": "Let me see:"}], problem=QUESTION)])


def test_where_the_problem_shows_that_it_is_an_answer_it_is_left_out(read):
    lines = [line([USER, ANSWER], "so \\boxed{5}", problem=QUESTION)]
    assert read(lines)["prompt"].tolist() == [SEEN]
    read(lines, said=(said := []))
    assert "end with an assistant's turn" in said[0]


def test_without_a_response_the_last_turn_is_the_response(read, tmp_path, verifier):
    lines = [{"messages": [USER, ANSWER], "target": "4"}]
    table = read(lines)
    assert table[["prompt", "response", "verdict"]].values.tolist() == [
        [SEEN, ANSWER["content"], "correct"]
    ]
    found = import_verdicts(tmp_path / "r.jsonl", verifier, ImportConfig())["r"]
    assert found["verdict"].tolist() == ["correct"]


def test_responses_that_are_chats_are_read_to_their_text(read):
    assert read([line([USER], [ANSWER])])["response"].tolist() == [ANSWER["content"]]
    assert len(read([line([USER], [[ANSWER], [ANSWER]])])) == 2
    apart = {**ANSWER, "reasoning_content": "Two and two."}
    table = read([line([USER], [apart])], said=(said := []))
    assert table["response"].tolist() == ["<think>\nTwo and two.\n</think>\n\nIt is \\boxed{4}"]
    assert "1 rows keep the reasoning apart" in said[0]
    with pytest.raises(GeomrlError, match="2 turns of the assistant"):
        read([line([USER], [ANSWER, USER, ANSWER])])


def test_a_chat_needs_a_template_that_takes_it(read):
    with pytest.raises(GeomrlError, match="no chat template: give the rendered text"):
        read([line([USER])], tokenizer=build_tokenizer(template=None))
    strict = CHATML + "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    with pytest.raises(GeomrlError, match="chat template refuses its messages"):
        read([line([USER, USER])], tokenizer=build_tokenizer(strict))


# texts


def test_a_text_that_lost_its_special_tokens_gets_them_back_where_that_is_certain(read):
    for text in (STRIPPED, STRIPPED.replace("Be kind.", "Be\nbrief.")):
        table = read([line(text)])
        assert table["prompt_kind"].tolist() == ["recovered"]
        whole = table["prompt"].iloc[0]
        assert whole.replace("<|im_start|>", "").replace("<|im_end|>", "") == text
        assert TOKENIZER.decode(table["prompt_ids"].iloc[0]) == whole
    read([line(STRIPPED)], said=(said := []))
    assert "special tokens of the chat template" in said[0]
    # Without thinking, as the template writes it.
    assert read([line(STRIPPED + "<think>\n\n</think>\n\n")])["prompt"].iloc[0] == (
        SEEN + "<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize(
    "text",
    [QUESTION, f"user\n{QUESTION}\nassistant\n", STRIPPED + "\\boxed{3}\nuser\nSure?\nassistant\n",
     f"### Question\n{QUESTION}\n### Answer"],
    ids=["bare", "no system turn", "two turns", "of another template"],
)  # fmt: skip
def test_a_text_without_a_sign_of_the_template_is_refused(text, read):
    with pytest.raises(GeomrlError, match=r"row 1: its prompt .* no sign .*--raw-prompt"):
        read([line(text)])
    table = read([line(text)], raw_prompt=True)
    assert table["prompt"].tolist() == [text]
    assert table["prompt_ids"].iloc[0] == TOKENIZER(text)["input_ids"]


def test_a_template_of_plain_words_is_known_by_its_words(read):
    words = build_tokenizer("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}")
    assert read([line("[INST] 2+2? [/INST]")], words)["prompt_kind"].tolist() == ["raw"]
    with pytest.raises(GeomrlError, match=r"such as '\[/INST\]'"):
        read([line("2+2?")], words)


@pytest.mark.parametrize("template", [None, CHATML], ids=["no template", "ChatML"])
def test_the_first_token_is_added_where_the_tokenizer_adds_it_and_the_text_lacks_it(template, read):
    tokenizer = build_tokenizer(template, begin=True)
    text = SEEN if template else "Q: 2+2? A:"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    for given in (text, "<s>" + text):
        assert read([line(given)], tokenizer)["prompt_ids"].iloc[0] == [
            tokenizer.bos_token_id,
            *plain,
        ]
    if template is None:
        made = render_prompt(text, tokenizer, template="plain")
        assert read([line(text)], tokenizer)["prompt_ids"].iloc[0] == made.ids


def test_a_response_that_holds_its_prompt_is_parted_from_it(read, tmp_path, verifier):
    lines = [line(SEEN, SEEN + "\\boxed{4}"), line(SEEN, SEEN + "I do not know.")]
    assert read(lines)["response"].tolist() == ["\\boxed{4}", "I do not know."]
    read(lines, said=(said := []))
    assert "begins with its prompt" in said[0]
    found = import_verdicts(tmp_path / "r.jsonl", verifier, ImportConfig())["r"]
    assert found["verdict"].tolist() == ["correct", "no_answer"]


def test_a_text_that_holds_the_response_already_is_refused(read):
    answer = "Two and two make four, so \\boxed{4}"
    with pytest.raises(GeomrlError, match="row 1: its prompt ends with the response"):
        read([line(SEEN + answer + "<|im_end|>\n", answer)])


# options and ids


def test_options_without_effect_are_refused(read):
    for prompt, option in (
        (SEEN, {"system": "Be brief."}), (SEEN, {"thinking": False}), ([USER], {"system": "Be brief."}),
    ):  # fmt: skip
        with pytest.raises(GeomrlError, match="would change nothing"):
            read([line(prompt)], **option)
    with pytest.raises(GeomrlError, match="--raw-prompt would change nothing"):
        read([{"problem": QUESTION, "response": "\\boxed{4}", "gold": "4"}], raw_prompt=True)
    deaf = build_tokenizer(CHATML.replace("enable_thinking is false", "false"))
    with pytest.raises(GeomrlError, match="does not heed it"):
        read([line([USER])], deaf, thinking=False)
    # With messages it has one: the template writes it.
    assert read([line([USER])], thinking=False)["prompt"].tolist() == [
        SEEN + "<think>\n\n</think>\n\n"
    ]


def test_ids_are_kept_each_by_themselves(read):
    response = "so \\boxed{4}"
    ids = [TOKENIZER.convert_tokens_to_ids(TOKENIZER.tokenize(c))[0] for c in response]
    assert ids != TOKENIZER(response)["input_ids"]  # the sampler cut the text otherwise
    table = read([line(SEEN, response, completion_ids=ids)])
    assert table["token_source"].tolist() == ["given"]
    assert table["response_ids"].tolist() == [ids]
    prompt_ids = TOKENIZER(SEEN)["input_ids"]
    table = read([line(STRIPPED, response, prompt_ids=prompt_ids)])
    assert table["prompt_ids"].tolist() == [prompt_ids]
    assert table["token_source"].tolist() == ["re-tokenised"]
    with pytest.raises(GeomrlError, match="row 1: 'prompt_ids' holds ids outside"):
        read([line(SEEN, response, prompt_ids=[9999])])


def test_responses_known_by_their_ids_alone(read, tmp_path, verifier):
    ends = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    lines = [
        {"prompt_tokens": TOKENIZER(SEEN)["input_ids"], "ground_truth": ["4"],
         "response_tokens": [*TOKENIZER("so \\boxed{4}")["input_ids"], ends]}
    ]  # fmt: skip
    table = read(lines)
    assert table[["response", "prompt", "verdict"]].values.tolist() == [
        ["so \\boxed{4}", SEEN, "correct"]
    ]
    with pytest.raises(GeomrlError, match="token ids alone"):
        import_verdicts(tmp_path / "r.jsonl", verifier, ImportConfig())


# nested columns, repeats, steps


def test_nested_columns_are_named_by_dots(read):
    nested = {"doc": {"text": QUESTION, "gold": "4"}, "out": {"texts": ["\\boxed{4}"]}}
    columns = {"problem": "doc.text", "gold": "doc.gold", "response": "out.texts.0"}
    assert read([nested], columns=columns)["verdict"].tolist() == ["correct"]
    for role in ("problem", "prompt"):
        with pytest.raises(
            GeomrlError, match=rf"--column {role}=doc\.text or --column {role}=doc\.gold"
        ):
            read([nested], columns={**columns, "problem": "", role: "doc"})
    with pytest.raises(GeomrlError, match=r"--column response=out\.texts\.0"):
        read([nested], columns={**columns, "response": "out"})


def test_lm_evals_filters_are_no_rollouts_of_their_own(read):
    chat = {"gen_args_0": {"arg_0": [json.dumps([USER])], "arg_1": {"until": ["Q:"]}}}
    one = {"doc_id": 0, "doc": {"question": "2+2?"}, "target": "2+2\n#### 4", "arguments": chat,
           "resps": [["\\boxed{4}", "\\boxed{5}"]]}  # fmt: skip
    lines = [{**one, "filter": name} for name in ("strict-match", "flexible-extract")]
    table = read(lines)
    assert table["prompt"].tolist() == [SEEN] * 2
    assert table["verdict"].tolist() == ["correct", "wrong"]
    read(lines, said=(said := []))
    assert "2 filters" in said[0]
    lines[1]["resps"] = [["\\boxed{4}", "\\boxed{6}"]]
    with pytest.raises(GeomrlError, match=r"different responses to one document.*--where filter="):
        read(lines)


def test_training_steps_are_policies_of_their_own(read, tmp_path, verifier):
    lines = [line(SEEN, f"so \\boxed{{{4 + s}}}", step=s * 10) for s in (1, 0) for _ in range(3)]
    with pytest.raises(GeomrlError, match=r"2 training steps .*--where step='10'"):
        read(lines)
    assert read(lines, where={"step": "0"})["policy_step"].tolist() == [0] * 3
    assert len(read(lines, columns={"policy_step": ""})) == 6
    found = import_verdicts(tmp_path / "r.jsonl", verifier, ImportConfig())
    assert {name: len(part) for name, part in found.items()} == {"r@10": 3, "r@0": 3}


def test_one_json_value_is_rows_or_an_error_that_says_so(read, tmp_path, verifier):
    lines = [line(SEEN), line(SEEN, "no")]
    path = tmp_path / "r.json"
    for whole in (lines, {str(i): each for i, each in enumerate(lines)}):
        for indent in (None, 1):
            path.write_text(json.dumps(whole, indent=indent))
            table = import_rollouts(path, TOKENIZER, verifier, ImportConfig())
            assert table["verdict"].tolist() == ["correct", "no_answer"]
    path.write_text(json.dumps({"version": 2, "config": {"n": 1}}, indent=1))
    with pytest.raises(GeomrlError, match=r"one JSON object \(version, config\), not rollouts"):
        import_rollouts(path, TOKENIZER, verifier, ImportConfig())


def test_parquet_structs_and_arrays(tmp_path, verifier):
    frame = pd.DataFrame(
        {
            "messages": [[USER]],
            "responses": [["\\boxed{4}", "no"]],
            "reward_model": [{"ground_truth": "4"}],
        }
    )
    frame.to_parquet(tmp_path / "r.parquet")
    table = import_rollouts(tmp_path / "r.parquet", TOKENIZER, verifier, ImportConfig())
    assert table["prompt"].tolist() == [SEEN] * 2
    assert table["verdict"].tolist() == ["correct", "no_answer"]


# the command


def test_from_the_command_line(tmp_path):
    model = save_model(tmp_path / "model", vocab_size=400)
    TOKENIZER.save_pretrained(model)
    lines = [line(STRIPPED, answer) for answer in ("\\boxed{4}", "\\boxed{5}")]
    path = write_lines(tmp_path / "r.jsonl", lines)
    command = ["rollout", model, "--import", path, "--out"]
    done = geomrl(*command, tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    assert "lost the special tokens" in done.stderr
    assert read_parquet(tmp_path / "a" / "rollouts.parquet")["prompt"].tolist() == [SEEN] * 2
    assert geomrl(*command, tmp_path / "b", "--raw-prompt").exit_code == 0
    assert read_parquet(tmp_path / "b" / "rollouts.parquet")["prompt"].tolist() == [STRIPPED] * 2
    for option in (
        ["--template", "plain"],
        ["--system", "Be brief."],
        ["--no-thinking", "--raw-prompt"],
    ):
        refused = geomrl(*command, tmp_path / "c", *option)
        assert refused.exit_code == 1
        assert "would change nothing" in refused.stderr
        assert not (tmp_path / "c" / "rollouts.parquet").exists()
