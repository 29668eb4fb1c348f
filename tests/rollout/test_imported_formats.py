"""Files of other tools, in the layouts of `tool_files`, read without an option."""

import re
from pathlib import Path

import pytest
import tool_files
from commands import geomrl
from small_runs import save_model, write_lines
from test_imported_prompts import TOKENIZER
from tool_files import PROBLEMS, SYSTEM, assistant, responses, seen, user

from geomrl.errors import GeomrlError
from geomrl.files import read_parquet
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.formats import FORMATS, opened
from geomrl.rollout.imports.table import import_rollouts, import_verdicts

WITH_THOUGHT = "<think>\nHm.\n</think>\n\n"
SEEN = {  # tool -> its prompts, where they are not the user's turn through the template
    "verifiers": [seen(question, "Be brief.") for question in PROBLEMS],
    "lm_eval": [f"Q: {question}\nA:" for question in PROBLEMS],
}
SEEN["inspect_ai"] = SEEN["skythought"] = SEEN["verifiers"]
KIND = {"verl": "recovered", "trl": "recovered", "nemo_skills": "templated"} | dict.fromkeys(
    ("verifiers", "inspect_ai", "evalscope", "opencompass", "skythought"), "messages"
)
GIVEN = ("open_instruct", "prime_rl", "lighteval")  # tools that write token ids
REJOINED = ("inspect_ai", "nemo_skills", "every_eval_ever")  # tools that split reasoning off
LABELS = ("trl", "ms_swift")  # tools that write no golds
STEPS = {"verl": 20, "trl": 10, "ms_swift": 5, "open_instruct": 3, "prime_rl": 8}
BENCHMARKS = {"lm_eval": "gsm8k", "verl": "20", "trl": "completions_00010",
              "ms_swift": "completions", "open_instruct": "gsm8k", "prime_rl": "gsm8k",
              "verifiers": "results", "inspect_ai": "sums", "evalscope": "gsm8k_main",
              "opencompass": "gsm8k", "lighteval": "sums|0", "skythought": "results",
              "every_eval_ever": "sums"}  # fmt: skip
POLICIES = {
    "inspect_ai": "lab/one",
    "every_eval_ever": "lab/one",
    "evalscope": "one",
    "prime_rl": "r",
}
TOOLS = [name for name in vars(tool_files) if name in {*BENCHMARKS, "nemo_skills"}]


@pytest.mark.parametrize("tool", TOOLS)
def test_every_format_is_read_without_an_option(tool, read, tmp_path):
    path = getattr(tool_files, tool)(tmp_path)
    table = read(path, said=(said := []))
    table = table.sort_values(["problem_id", "verdict"])
    assert table["verdict"].tolist() == ["correct", "wrong"] * 2
    assert table["problem_id"].nunique() == 2
    assert table["rollout_id"].is_unique
    thought = WITH_THOUGHT if tool in REJOINED else ""
    expected = [thought + text for gold in PROBLEMS.values() for text in responses(gold)]
    ends = "<|im_end|>" if tool in GIVEN else ""
    assert table["response"].tolist() == [text + ends for text in expected] or (
        table["response"].tolist() == expected
    )
    assert [TOKENIZER.decode(each) for each in table["response_ids"]] == [
        text + ends for text in expected
    ]
    prompts = SEEN.get(tool, [seen(question) for question in PROBLEMS])
    if tool != "nemo_skills":
        assert table["prompt"].tolist() == [prompt for prompt in prompts for _ in range(2)]
    assert [TOKENIZER.decode(each) for each in table["prompt_ids"]] == table["prompt"].tolist()
    assert set(table["prompt_kind"]) == {KIND.get(tool, "raw")}
    assert set(table["token_source"]) == {"given" if tool in GIVEN else "re-tokenised"}
    assert set(table["benchmark"]) == {BENCHMARKS.get(tool, tmp_path.name)}
    if tool in STEPS:
        assert set(table["policy_step"]) == {STEPS[tool]}
    if tool not in LABELS:
        assert table["gold"].tolist() == [gold for gold in PROBLEMS.values() for _ in range(2)]
    told = "\n".join(said)
    assert ("keep the reasoning apart" in told) == (tool in REJOINED)
    assert ("writes no gold answers" in told) == (tool in LABELS)
    assert ("need not be what the policy saw" in told) == (tool == "nemo_skills")


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "open_instruct"])
def test_verdicts_alone_need_no_tokenizer(tool, tmp_path, verifier):
    path = getattr(tool_files, tool)(tmp_path)
    found = import_verdicts(path, verifier, ImportConfig())
    assert list(found) == [POLICIES.get(tool, path.stem)]
    assert [table["verdict"].value_counts().to_dict() for table in found.values()] == [
        {"correct": 2, "wrong": 2}
    ]


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in ("lm_eval", "lighteval")])
def test_the_files_own_verdicts_agree(tool, read, tmp_path):
    path = getattr(tool_files, tool)(tmp_path)
    if tool == "open_instruct":
        with pytest.raises(GeomrlError, match=r"label 10.* is neither right"):
            read(path, keep_labels=True)
        return
    if tool == "opencompass":
        with pytest.raises(GeomrlError, match=r"no column with verdicts \(columns: .*prediction"):
            read(path, keep_labels=True)
        return
    assert sorted(read(path, keep_labels=True)["verdict"]) == ["correct"] * 2 + ["wrong"] * 2


def test_every_format_has_a_fixture_and_is_recognised_by_it(tmp_path):
    assert len(TOOLS) == len(FORMATS) - 1
    for tool, known in zip(TOOLS, FORMATS, strict=False):
        folder = tmp_path / tool
        folder.mkdir()
        found = opened(getattr(tool_files, tool)(folder), ImportConfig(), str)
        assert found.format is known
        assert known.tool.lower().replace("-", "_").replace(" ", "_") in (tool, "inspect")
    assert FORMATS[-1].tool is None


def test_steps_in_a_folder_are_policies_of_their_own(read, tmp_path, verifier):
    for step in (9, 10):
        tool_files.verl(tmp_path, step)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(GeomrlError, match=r"2 training steps \(9, 10\).*--where step='9'"):
        read(tmp_path)
    table = read(tmp_path, said=(said := []), where={"step": "10"})
    assert set(table["policy_step"]) == {10}
    assert set(table["benchmark"]) == {tmp_path.name}
    assert "2 files of verl are read: 9.jsonl, 10.jsonl" in said[0]
    found = import_verdicts(tmp_path / "*.jsonl", verifier, ImportConfig())
    assert {name: len(table) for name, table in found.items()} == {
        f"{tmp_path.name}@{step}": 4 for step in (9, 10)
    }


def test_folders_of_several_tools_or_policies_are_not_mixed(read, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tool_files.nemo_skills(tmp_path / name)
    with pytest.raises(GeomrlError, match=r"2 policies \(one, two\).*--where policy='one'"):
        read(tmp_path)
    assert len(read(tmp_path, where={"policy": "two"})) == 4
    tool_files.verl(tmp_path)
    with pytest.raises(GeomrlError, match=r"several tools \(verl, NeMo-Skills\)"):
        read(tmp_path)
    with pytest.raises(GeomrlError, match="no such file"):
        read(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeomrlError, match="holds no file of rollouts"):
        read(tmp_path / "empty")


def test_a_bad_row_of_a_folder_is_named_with_its_file(read, tmp_path):
    good = {"problem": "1+1?", "response": "\\boxed{2}", "gold": "2"}
    write_lines(tmp_path / "a.jsonl", [good])
    write_lines(tmp_path / "b.jsonl", [good, good | {"gold": None}])
    with pytest.raises(GeomrlError, match=r"row 2 of b\.jsonl: no gold answer"):
        read(tmp_path)


def test_a_prompt_that_opens_the_thought_is_not_followed_by_its_tag(verifier, tmp_path):
    tokenizer = tool_files.TOKENIZER.__class__.from_pretrained(save(TOKENIZER, tmp_path / "t"))
    tokenizer.chat_template = TOKENIZER.chat_template.replace(
        "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"
    )
    row = {"prompt": [user("2+2?")], "gold": "4",
           "response": [assistant("\\boxed{4}", reasoning_content="Hm.")]}  # fmt: skip
    path = write_lines(tmp_path / "r.jsonl", [row])
    table = import_rollouts(path, tokenizer, verifier, ImportConfig())
    assert table["prompt"][0].endswith("<think>\n")
    assert table["response"].tolist() == ["Hm.\n</think>\n\n\\boxed{4}"]


def save(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_answers_of_several_turns_are_left_out_and_told(read, tmp_path):
    path = tool_files.verifiers(tmp_path)
    asked = [assistant("Which?"), user("This."), assistant("\\boxed{4}")]
    row = {"example_id": 9, "prompt": [SYSTEM], "completion": asked, "answer": "4", "reward": 1.0}
    with path.open("a") as file:
        file.write(tool_files.json.dumps(row) + "\n")
    assert len(read(path, said=(said := []))) == 4
    assert "1 of 6 rows are left out: they failed before" in said[0]
    assert "1 of 5 rows are left out: the model answered in several turns" in said[1]
    alone = write_lines(tmp_path / "alone.jsonl", [row])
    with pytest.raises(GeomrlError, match="none of its 1 rows can be read: the model answered in"):
        read(alone)


def test_a_file_of_no_known_format_says_its_columns_and_what_to_name(read, tmp_path):
    path = write_lines(tmp_path / "r.jsonl", [{"ask": "1+1?", "say": "\\boxed{2}", "right": "2"}])
    with pytest.raises(GeomrlError, match=r"\(columns: ask, say, right\).*--column response=NAME"):
        read(path)
    named = {"response": "say", "problem": "ask"}
    with pytest.raises(GeomrlError, match=r"\(columns: ask, say, right\).*--column gold=NAME"):
        read(path, columns=named)
    assert read(path, columns={**named, "gold": "right"})["verdict"].tolist() == ["correct"]


def test_the_commands_read_a_log_and_a_folder(tmp_path):
    model = save_model(tmp_path / "model", vocab_size=400)
    TOKENIZER.save_pretrained(model)
    log, folder = tool_files.inspect_ai(tmp_path), tmp_path / "outputs"
    folder.mkdir()
    tool_files.nemo_skills(folder)
    for seed in (2, 3):
        right = (folder / "output-rs0.jsonl").read_text().replace("So it", f"{seed}: it")
        (folder / f"output-rs{seed}.jsonl").write_text(right)
    for _ in range(2):  # and it resumes
        done = geomrl("rollout", model, "--import", log, "--out", tmp_path / "a")
        assert done.exit_code == 0, done.output
    assert read_parquet(tmp_path / "a" / "rollouts.parquet")["verdict"].tolist() == [
        "correct", "wrong", "correct", "wrong"
    ]  # fmt: skip
    command = (
        *("probe", model, "--rollouts", folder, "--out", tmp_path / "b", "--layers", "final"),
        *("--anchors", "before_marker", "--boot", 100, "--permutations", 99),
    )
    done = geomrl(*command)
    assert done.exit_code == 0, done.output
    assert "4 files of NeMo-Skills are read" in done.stderr
    write_lines(folder / "output-rs9.jsonl", [])
    done = geomrl("eval", folder, "--rollouts", "--out", tmp_path / "c", "--no-figures")
    assert done.exit_code == 0, done.output
    assert "2 x 4" in done.output


def test_the_docs_list_every_format():
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    listed = re.findall(r"^\| ([\w -]+?) \| `", page, flags=re.MULTILINE)
    assert [name for name in listed if name in {each.tool for each in FORMATS}] == [
        each.tool for each in FORMATS if each.tool is not None
    ]
