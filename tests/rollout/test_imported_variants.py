"""What tools also write into their files: older layouts, failures, several choices, nothing to grade."""

import json
import struct
import zipfile
import zlib

import pandas as pd
import pyarrow as pa
import pytest
import tool_files
from small_runs import write_lines
from tool_files import PROBLEMS, ROLLOUTS, assistant, ids, responses, seen, user

from geomrl.errors import GeomrlError
from geomrl.files import read_json_lines
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.table import import_verdicts

VERDICTS = ["correct", "wrong"] * 2


def lines_of(path):
    return [row for _, row in read_json_lines(path)]


def rewritten(path, change):
    """The file's lines, each changed in place."""
    lines = lines_of(path)
    for line in lines:
        change(line)
    return write_lines(path, lines)


def test_archives_of_zstd_and_json_logs_are_read_as_those_of_deflate(read, tmp_path):
    plain = read(tool_files.inspect_ai(tmp_path))
    path = tmp_path / "log2.eval"
    samples = list(tool_files.inspect_samples())
    about = {"task": "sums", "model": "lab/one"}
    members = {f"samples/{i}_epoch_1.json": each for i, each in enumerate(samples)}
    write_zstd(path, {**members, "header.json": {"eval": about}})
    with zipfile.ZipFile(path) as archive:
        assert {each.compress_type for each in archive.infolist()} == {93}
    pd.testing.assert_frame_equal(read(path), plain)
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"version": 2, "eval": about, "samples": samples}))
    pd.testing.assert_frame_equal(read(path), plain)
    path.with_suffix(".eval").write_bytes(b"PK torn")
    with pytest.raises(GeomrlError, match="cannot be read as a log of Inspect"):
        read(path.with_suffix(".eval"))


def write_zstd(path, members):
    """A zip archive by hand: Python 3.11's own module does not write zstd."""
    body, directory = b"", b""
    for name, content in members.items():
        plain = json.dumps(content).encode()
        packed = pa.Codec("zstd").compress(plain, asbytes=True)
        sizes = (zlib.crc32(plain), len(packed), len(plain), len(name), 0)
        fields = struct.pack("<HHHHHIIIHH", 63, 0, 93, 0, 33, *sizes)
        directory += b"PK\1\2" + struct.pack("<H", 63) + fields
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + fields + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\5\6" + end)


def test_inspect_with_several_choices_and_a_sample_that_failed(read, tmp_path):
    path = tmp_path / "log.json"
    samples = [
        {"id": number, "epoch": 1, "input": question, "target": gold, "messages": [user(question)],
         "output": {"choices": [{"message": assistant(text), "stop_reason": end}
                                for text, end in zip(responses(gold), ("stop", "max_tokens"),
                                                     strict=True)]}}
        for number, (question, gold) in enumerate(PROBLEMS.items())
    ]  # fmt: skip
    failed = {**samples[0], "id": 9, "output": {"choices": []}, "error": {"message": "timeout"}}
    path.write_text(
        json.dumps({"eval": {"task": "t", "model": "m"}, "samples": [*samples, failed]})
    )
    table = read(path, said=(said := []))
    assert table["verdict"].tolist() == VERDICTS
    assert table["finish_reason"].tolist() == ["stop", "length"] * 2
    assert table["prompt"].tolist() == [seen(question) for question in PROBLEMS for _ in range(2)]
    assert "1 of 3 rows are left out: they failed" in said[0]


def test_episodes_are_read_by_their_messages_where_ids_do_not_serve(read, verifier, tmp_path):
    path = tool_files.prime_rl(tmp_path)
    found = import_verdicts(path, verifier, ImportConfig())
    assert sorted(found["r"]["verdict"]) == sorted(VERDICTS)
    again = read(path, retokenize=True)
    assert set(again["token_source"]) == {"re-tokenised"}
    assert set(again["prompt"]) == {seen(question, "Be brief.") for question in PROBLEMS}

    def without_ids(line):
        for node in line["traces"][0]["nodes"] if line["traces"] else []:
            node.update(token_ids=[], mask=[])
        line["run"] = None

    bare = rewritten(path / "step_8" / "train" / "all" / "traces.jsonl", without_ids)
    table = read(bare)
    assert table["verdict"].tolist() == VERDICTS
    assert set(table["prompt_kind"]) == {"messages"}
    assert table["policy_step"].isna().all()


def test_verl_without_golds_and_dumps_of_two_folders(read, tmp_path):
    path = rewritten(tool_files.verl(tmp_path), lambda line: line.update(gts=None))
    table = read(path, said=(said := []))
    assert table["verdict"].tolist() == VERDICTS
    assert "verl writes no gold answers there; the verdicts are the file's own ('acc')" in said[0]
    for name in ("rollouts", "validation"):
        (tmp_path / "dumps" / name).mkdir(parents=True)
        tool_files.verl(tmp_path / "dumps" / name)
    with pytest.raises(GeomrlError, match=r"2 policies \(rollouts, validation\)"):
        read(tmp_path / "dumps")
    assert len(read(tmp_path / "dumps" / "validation")) == 4


def test_rewards_of_which_none_is_surely_the_verdict_are_listed(read, tmp_path):
    path = tool_files.trl(tmp_path)
    frame = pd.read_parquet(path).rename(columns={"accuracy_reward": "one", "format_reward": "two"})
    frame.to_parquet(path)
    with pytest.raises(GeomrlError, match=r"\(columns: .*one, length_reward.*--column label=NAME"):
        read(path)
    assert read(path, columns={"label": "one"})["verdict"].tolist() == VERDICTS
    frame.assign(solution=[gold for _, _, _, gold, _ in ROLLOUTS]).to_parquet(path)
    assert read(path)["verdict"].tolist() == VERDICTS


def test_likelihoods_are_no_rollouts(read, tmp_path):
    path = tool_files.lm_eval(tmp_path)
    rewritten(path, lambda line: line.update(resps=[[[-1.5, False]], [[-0.5, True]]]))
    with pytest.raises(GeomrlError, match=r"samples_gsm8k.*likelihoods"):
        read(path)
    path = tool_files.lighteval(tmp_path)
    frame = pd.read_parquet(path)
    frame["model_response"] = [{**each, "text": []} for each in frame["model_response"]]
    frame.to_parquet(path)
    with pytest.raises(GeomrlError, match=r"none of its 2 rows can be read: .*likelihoods"):
        read(path)


def test_details_of_lighteval_before_they_were_nested(read, tmp_path):
    rows = [
        {"full_prompt": seen(question), "predictions": responses(gold), "gold": [gold],
         "example": question, "input_tokens": ids(question), "metrics": {"em": 0.5}}
        for question, gold in PROBLEMS.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "details_t_2024.parquet")
    table = read(tmp_path / "details_t_2024.parquet")
    assert table["verdict"].tolist() == VERDICTS
    assert table["prompt"].tolist() == [seen(question) for question in PROBLEMS for _ in range(2)]


@pytest.mark.parametrize("several", [False, True])
def test_results_of_skythought_under_their_temperature(several, read, tmp_path):
    entries = {gold: [{"content": text} for text in responses(gold)] for gold in PROBLEMS.values()}
    rows = {
        question: {"responses": {"0.7": entries[gold]} | ({"1.0": entries[gold]} if several else {}),
                   "answer": gold, "prompt": question}
        for question, gold in PROBLEMS.items()
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(rows))
    table = read(tmp_path / "r.json", said=(said := []))
    assert len(table) == (8 if several else 4)
    assert any("2 temperatures" in line for line in said) == several
    assert len(read(tmp_path / "r.json", where={"temperature": "0.7"})) == 4


def test_opencompass_texts_lists_and_shards(read, tmp_path):
    for shard, (question, gold) in enumerate(PROBLEMS.items()):
        row = {"origin_prompt": question, "prediction": responses(gold), "gold": gold}
        (tmp_path / f"sums_{shard}.json").write_text(json.dumps({"0": row}, indent=1))
    table = read(tmp_path, said=(said := []))
    assert table["verdict"].tolist() == VERDICTS
    assert set(table["benchmark"]) == {"sums"}
    assert table["prompt"].tolist() == [seen(question) for question in PROBLEMS for _ in range(2)]
    assert "each is rendered as a user's turn" in said[1]
    texts = read(tmp_path, raw_prompt=True)
    assert texts["prompt"].tolist() == [question for question in PROBLEMS for _ in range(2)]


def test_reviews_of_evalscope_alone_with_reasoning_in_parts(read, tmp_path):
    tool_files.evalscope(tmp_path)
    path = tmp_path / "reviews" / "one" / "gsm8k_main.jsonl"

    def split(line):
        said = line["messages"][-1]
        parts = [
            {"type": "reasoning", "reasoning": "Hm."},
            {"type": "text", "text": said["content"]},
        ]
        said["content"] = parts

    table = read(rewritten(path, split))
    assert table["verdict"].tolist() == VERDICTS
    assert table["response"][0] == "<think>\nHm.\n</think>\n\n" + responses("4")[0]
    path.unlink()
    with pytest.raises(GeomrlError, match="4 predictions of evalscope without a review"):
        read(tmp_path / "predictions" / "one" / "gsm8k_main.jsonl")


def test_samples_of_every_eval_ever_without_the_formatted_prompt(read, tmp_path):
    path = tool_files.every_eval_ever(tmp_path)
    rewritten(path, lambda line: line["input"].update(formatted=None))
    table = read(path)
    assert table["prompt"].tolist() == [seen(question) for question in PROBLEMS for _ in range(2)]
    rewritten(path, lambda line: line.update(output=None, messages=[user("1?")]))
    with pytest.raises(GeomrlError, match="transcripts of several turns"):
        read(path)


def test_a_stripped_prompt_that_no_template_gives_is_refused_for_trl(read, tmp_path):
    path = tool_files.trl(tmp_path)
    frame = pd.read_parquet(path)
    frame["prompt"] = [text.replace("assistant", "helper") for text in frame["prompt"]]
    frame.to_parquet(path)
    with pytest.raises(GeomrlError, match="shows no sign of the tokenizer's chat template"):
        read(path)


def test_prompts_as_they_were_sent_are_kept_and_told(read, tmp_path):
    read(tool_files.lm_eval(tmp_path), said=(said := []))
    assert any("2 of 2 prompts show no sign" in line for line in said)


def test_a_row_that_is_not_as_its_tool_writes_it_is_named(read, tmp_path):
    path = tool_files.every_eval_ever(tmp_path)
    lines = lines_of(path)
    del lines[1]["output"]["raw"]
    with pytest.raises(GeomrlError, match=r"row 2: is not as its tool writes it \(KeyError: 'raw'"):
        read(write_lines(path, lines))
    path = tool_files.lighteval(tmp_path)
    frame = pd.read_parquet(path)
    frame["model_response"] = [{**each, "output_tokens": []} for each in frame["model_response"]]
    frame.to_parquet(path)
    table = read(path)
    assert table["verdict"].tolist() == VERDICTS
    assert set(table["token_source"]) == {"re-tokenised"}
