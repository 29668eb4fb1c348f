"""The GPU benchmark, wholly at a tiny size on the CPU, and what it does when a section fails."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from processes import run_process

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PLANTED = """
import pytest

@pytest.mark.gpu
def test_right():
    pass

@pytest.mark.gpu
def test_wrong():
    assert 1 == 2

@pytest.mark.gpu
@pytest.mark.skip(reason="no card")
def test_left_out():
    pass

def test_of_something_else():
    pass
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_all_sections_run_on_a_cpu(tmp_path):
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--size", "tiny"]
    command += ["--sections", "probe", "precision", "update", "--out", tmp_path / "gpu"]
    done = run_process([*command, "--minutes", "60"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    sections = {each["section"]: each for each in found["sections"]}
    assert list(sections) == ["machine", "probe", "precision", "update"]
    reading, update = sections["probe"], sections["update"]
    assert reading["script_over_ours"]["n"] == reading["rounds"] == 2
    # A row's bfloat16 rounding may depend on the batch; a state of another token would be far away.
    assert max(reading["farthest_state"].values()) < 0.1
    assert reading["shortened_from"] is None
    layers = sections["precision"]["layers"]
    assert list(layers) == ["0", "1", "2", "3", "final"]
    # bfloat16 keeps 8 bits: an error of up to 2^-8 a rounding, and 1 - cosine about half its square.
    assert all(1e-4 < layer["error_median"] < 0.03 for layer in layers.values())
    assert all(0 < layer["cosine_gap_largest"] < 1e-3 for layer in layers.values())
    assert update["aligned_over_plain"]["n"] == 6
    assert (
        update["flops"] > 6 * 100_000 * update["response_tokens"]
    )  # weights without the embedding
    text = (tmp_path / "gpu.md").read_text()
    assert "failed" not in text
    assert done.stdout.strip().endswith(text.strip())


def test_outcomes_of_marked_tests(gpu, tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_planted.py").write_text(PLANTED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: a\n")
    job = gpu.Job("tests")
    gpu.run_tests(job, 600.0, tmp_path, root=tmp_path)
    said = {name.rpartition("::")[2]: word for name, word in job.figures["outcomes"].items()}
    assert said == {
        "test_right": "passed",
        "test_wrong": "failed: assert 1 == 2",
        "test_left_out": "skipped: no card",
    }
    assert "test_wrong" in job.error


def serve_planted(connection, device, log):
    """Sections that end well, with an error, and not at all."""
    import gpu

    gpu.begin_alone(log)
    while (asked := connection.recv()) is not None:
        connection.send({"half": 1})
        if asked[0] == "update":
            raise MemoryError(f"too much on {device}")
        if asked[0] == "precision":
            time.sleep(10**6)
        connection.send(None)


def test_a_section_that_fails_leaves_the_others_alone(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    worker = gpu.Worker("cpu", tmp_path / "log", target=serve_planted)
    jobs = [gpu.Job("update"), gpu.Job("probe"), gpu.Job("precision"), gpu.Job("machine")]
    for job, seconds in zip(jobs, (600.0, 600.0, 0.0, 600.0), strict=True):
        worker.run(job, seconds)
    worker.stop()
    assert all(job.figures == {"half": 1} for job in jobs[:2])
    failed, well, ended, last = jobs
    assert failed.error.endswith("MemoryError: too much on cpu")
    assert well.error is last.error is None
    assert ended.error == "ended after 0 s"


def test_rounds_are_as_many_as_fit(gpu):
    from measuring import Budget, timed_rounds

    order = []
    arms = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    whole = timed_rounds(arms, 3, Budget(10**6))
    assert "".join(order) == "abcbcacab"
    assert (whole.made, whole.wanted) == (3, 3)
    assert timed_rounds(arms, 3, Budget(-1.0)).made == 1


def test_rollouts_have_the_sizes_and_anchors_that_are_asked_for(gpu):
    from probe import ANCHORS, MARKER
    from random_rollouts import SHAPES, random_rollouts

    from geomrl.models.loading import load_tokenizer
    from geomrl.models.token_bytes import TokenBytes
    from geomrl.probe.anchors import find_anchors

    tokenizer = load_tokenizer("reasoner")
    lengths = SHAPES["0.6B"].trained
    samples = random_rollouts(lengths, tokenizer, 151936, seed=0)
    assert samples == random_rollouts(lengths, tokenizer, 151936, seed=0)
    assert sum(sample.n_tokens for sample in samples) == pytest.approx(16384, rel=0.1)
    tokens = TokenBytes(tokenizer)
    for sample in samples:
        found = find_anchors(tokens, sample.response_ids, MARKER, ANCHORS, stop_ids=frozenset({2}))
        assert [a.token_index is None for a in found] == [False, False]
        assert found[-1].token_index < len(sample.response_ids)
    assert {sample.correct for sample in samples} == {True, False}
