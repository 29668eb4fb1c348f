"""Killed in the middle and run again: the same bytes as if nothing had happened."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from processes import outputs, wait_until
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.steps import probe_states
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts, make_rollouts
from geomrl.runs.run import open_run

CONFIG = RolloutConfig(
    n=4, chunk=6, sampling=Sampling(temperature=1.5, max_tokens=80), template="plain"
)
EXTRACTION = ExtractionConfig(batch_tokens=300)
KILLS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "sums.jsonl"
    lines = [{"id": f"s{i}", "problem": f"what is {i} + 0?", "answer": str(i)} for i in range(12)]
    return str(write_lines(path, lines))


def roll(model, problems, out, config=CONFIG):
    torch.set_num_threads(1)
    return make_rollouts(model, problems, out, config=config, show=False)


def probe(model, out):
    torch.set_num_threads(1)
    return probe_states(model, out, config=EXTRACTION, n_boot=100, n_perm=99, show=False)


def contents(folder, pattern):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob(pattern))}


def killed_and_run_again(step, arguments, seconds, out):
    """Kill the step's process `KILLS` times, at a random moment after one more part; let it finish.

    `seconds` is the time that a part takes on a machine with nothing else to do: the moments are
    spread over it, and a slower machine is killed earlier in the part, no more.
    """
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    left_overs = []
    for _ in range(KILLS):
        process = context.Process(target=step, args=arguments)
        process.start()
        before = parts_in(out)
        while process.is_alive() and parts_in(out) == before:
            time.sleep(0.001)
        time.sleep(seconds * rng.uniform())
        process.kill()
        process.join()
        left_overs.append(parts_in(out))
    step(*arguments)
    return left_overs


def parts_in(out):
    """How many parts are whole; none where all were joined into the table."""
    return len(list(out.rglob("part-*.parquet"))) + len(list(out.rglob("shard-*.parquet")))


@pytest.mark.slow
def test_rollouts_killed_five_times_are_bitwise_those_of_one_run(model, problems, tmp_path):
    started = time.perf_counter()
    roll(model, problems, tmp_path / "whole")
    seconds = time.perf_counter() - started
    left = killed_and_run_again(
        roll, (model, problems, tmp_path / "cut"), seconds / 12, tmp_path / "cut"
    )
    assert any(0 < count < 8 for count in left)  # a kill did fall between chunks
    want, got = (contents(tmp_path / name, "rollouts.parquet") for name in ("whole", "cut"))
    assert len(want) == 1
    assert want == got
    assert not list((tmp_path / "cut").rglob("*.tmp"))


@pytest.mark.slow
def test_states_killed_five_times_are_bitwise_those_of_one_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr("geomrl.probe.extraction._SHARD_ROLLOUTS", 8)
    lines = write_lines(tmp_path / "r.jsonl", rollout_lines(n_problems=12))
    config = ImportConfig(keep_labels=True, template="plain")
    import_rollouts(lines, model, tmp_path / "whole", config=config, show=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    started = time.perf_counter()
    probe(model, tmp_path / "whole")
    seconds = time.perf_counter() - started
    left = killed_and_run_again(probe, (model, tmp_path / "cut"), seconds / 20, tmp_path / "cut")
    assert any(0 < count <= 9 for count in left)
    for pattern in ("shard-*", "store.json", "similarity.parquet"):
        want, got = (contents(tmp_path / name, pattern) for name in ("whole", "cut"))
        assert want == got
        assert len(want) == (18 if pattern == "shard-*" else 1)


def test_unfinished_chunk_alone_is_redone(model, problems, tmp_path, monkeypatch):
    """A failure in chunk 3 keeps chunks 0-2; the next start does not touch them."""
    from geomrl.rollout import generate

    sample, calls = generate._completed, []

    def failing(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(*arguments, **named)

    monkeypatch.setattr(generate, "_completed", failing)
    with pytest.raises(KeyboardInterrupt):
        roll(model, problems, tmp_path / "cut")
    parts = contents(tmp_path / "cut", "part-*")
    assert len(parts) == 3
    monkeypatch.setattr(generate, "_completed", sample)
    run = roll(model, problems, tmp_path / "cut")
    assert len(run.rollouts) == 48
    assert not (tmp_path / "cut" / "rollouts.parts").exists()


def test_torn_part_is_named(model, problems, tmp_path):
    parts = tmp_path / "cut" / "rollouts.parts"
    parts.mkdir(parents=True)
    (parts / "part-00000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(GeomrlError, match=r"part-00000.parquet: not a whole parquet.*delete it"):
        roll(model, problems, tmp_path / "cut")


def test_samples_do_not_depend_on_the_chunk_size(model, problems, tmp_path):
    runs = [
        roll(
            model,
            problems,
            tmp_path / str(chunk),
            RolloutConfig(**{**vars(CONFIG), "chunk": chunk}),
        )
        for chunk in (5, 48)
    ]
    one, two = (run.rollouts["response_ids"].map(list) for run in runs)
    assert (one == two).mean() >= 0.999


def test_more_problems_or_another_seed_shift_no_draw(model, problems, tmp_path):
    from dataclasses import replace

    whole = roll(model, problems, tmp_path / "whole").rollouts.set_index("rollout_id")
    few = make_rollouts(
        model, problems, tmp_path / "few", config=replace(CONFIG, n=2), limit=3, show=False
    ).rollouts
    assert len(few) == 6
    same = whole.loc[few["rollout_id"], "response"].tolist()
    assert few["response"].tolist() == same
    other = roll(model, problems, tmp_path / "other", replace(CONFIG, seed=1)).rollouts
    assert (other["response"].to_numpy() != whole["response"].to_numpy()).mean() > 0.9


def test_run_of_other_settings_is_refused_and_left_alone(model, problems, tmp_path):
    from dataclasses import replace

    roll(model, problems, tmp_path / "run")
    before = contents(tmp_path / "run", "*.parquet")
    with pytest.raises(GeomrlError, match=r"other settings \(n: 4 there, 8 now\)"):
        roll(model, problems, tmp_path / "run", replace(CONFIG, n=8))
    assert contents(tmp_path / "run", "*.parquet") == before


def test_interrupt_exits_130_and_says_that_nothing_is_lost(model, problems, tmp_path):
    command = [sys.executable, "-m", "geomrl.cli", "rollout", model, "--problems", problems, "--out",
               str(tmp_path / "run"), "-n", "64", "--chunk", "8", "--template", "plain",
               "--max-tokens", "200"]  # fmt: skip
    # A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    parts = tmp_path / "run" / "rollouts.parts"
    assert wait_until(lambda: list(parts.glob("part-*")), process)
    process.send_signal(signal.SIGINT)
    [(_, said)] = outputs([process])
    assert process.returncode == 130
    assert "goes on from there" in said
    assert "Traceback" not in said
    assert list(parts.glob("part-*.parquet"))


def test_manifest_explains_the_run(model, problems, tmp_path):
    manifest = roll(model, problems, tmp_path / "run").manifest["rollouts"]
    assert manifest["settings"]["n"] == 4
    assert manifest["settings"]["sampling"]["temperature"] == 1.5
    assert manifest["versions"]["transformers"]
    assert json.dumps(manifest)
    row = open_run(tmp_path / "run").rollouts.iloc[0]
    assert row["policy_hash"] == manifest["settings"]["policy_hash"]
    assert len(row["logprobs"]) == len(row["response_ids"])
