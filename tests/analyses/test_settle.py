"""The claim judged on two arms of trainings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import assert_legible
from settle import settle, settle_finding

from geomrl.errors import GeomrlError
from geomrl.reproduce import Arms
from geomrl.reproduce.finding import write_finding
from geomrl.reproduce.trainings import read_trainings

PLACE = "eval/before_marker/final"
_START = {
    "eval/pass@1": 0.4,
    "eval/n_problems": 100,
    f"{PLACE}/CC-II": 0.02,
    f"{PLACE}/CC-II_low": -0.01,
    f"{PLACE}/CC-II_high": 0.05,
}


def write_training(folder, seed, last, *, step=90, evaluation=None):
    """A training's folder with an evaluation before it and one at its end."""
    folder.mkdir(parents=True)
    settings = {
        "seed": seed,
        "model": {"name": "reasoner"},
        "evaluation": {"problems": "arithmetic", "samples": 8, "every": 30, **(evaluation or {})},
    }
    (folder / "manifest.json").write_text(json.dumps({"train": {"settings": settings}}))
    lines = [{"step": 0, **_START}, {"step": 45, "loss": 1.0}, {"step": step, **last}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_arms(root, *, gain=0.0, convergence=0.0, floor=0.0, centred=0.0, seeds=range(5), **more):
    rng = np.random.default_rng(0)
    arms = ([], [])
    for seed in seeds:
        shared = rng.normal(0, 0.05)  # what a seed is worth, in both arms
        for aligned, runs in enumerate(arms):
            noise = rng.normal(0, 0.004, 6)
            last = {
                "eval/pass@1": 0.6 + shared + aligned * gain + noise[0],
                f"{PLACE}/CC-II": convergence + noise[1],
                f"{PLACE}/CC-II_same_answer": noise[2],
                f"{PLACE}/CC": 0.7 + aligned * floor + noise[3],
                f"{PLACE}/floor": 0.65 + aligned * floor + noise[3],
                f"{PLACE}/CC_centred": 0.1 + aligned * centred + noise[4],
                f"{PLACE}/effective_rank": 20 - 40 * aligned * floor + noise[5],
            }
            runs.append(write_training(root / f"{aligned}-{seed}", seed, last, **more))
    return Arms(*map(tuple, arms))


@pytest.mark.parametrize(
    ("gain", "convergence", "words"),
    [
        (0.06, 0.1, ("supported", "supported", "supported")),
        (0.0, 0.1, ("not supported", "supported", "not supported")),
        (0.06, 0.0, ("supported", "not supported", "not supported")),
    ],
)
def test_the_claim_follows_its_two_criteria(tmp_path, gain, convergence, words):
    found = settle(read_trainings(write_arms(tmp_path, gain=gain, convergence=convergence)))
    assert (found.gain.word, found.convergence.word, found.word) == words
    assert found.criteria["decides"].value_counts()["yes"] == 2


def test_a_small_sure_gain_is_supported_and_its_size_is_said(tmp_path):
    finding = settle_finding(write_arms(tmp_path, gain=0.02, convergence=0.1))
    assert "**The claim is supported here**" in finding.says[0]
    assert "smaller than the smallest effect that matters" in finding.says[2]


def test_two_seeds_are_undecided(tmp_path):
    finding = settle_finding(write_arms(tmp_path, gain=0.2, convergence=0.3, seeds=range(2)))
    assert "**The claim is undecided here**: two arms of 2 seeds" in finding.says[0]
    assert "seeds an arm would have been needed" in finding.says[2]


@pytest.mark.parametrize(
    ("floor", "centred", "words"),
    [
        (0.2, 0.0, "all states move together"),
        (0.0, 0.2, "correct move together"),
        (0.2, 0.2, "correct move together, but the floor rises too"),
        (0.0, 0.0, "neither the floor nor the centred cosine is shown to rise"),
    ],
)
def test_gauges_tell_collapse_from_alignment(tmp_path, floor, centred, words):
    finding = settle_finding(write_arms(tmp_path, floor=floor, centred=centred))
    assert finding.says[-2].endswith(f"By pointwise intervals: {words}.")


def test_the_pages_are_the_same_bytes_twice_and_the_picture_is_legible(tmp_path):
    arms = write_arms(tmp_path / "runs", gain=0.01)
    pages = []
    for name in ("one", "two"):
        finding = settle_finding(arms)
        files = write_finding(finding, tmp_path / name, title="?", inputs=[], command="x")
        pages.append({file.name: file.read_bytes() for file in files})
    assert pages[0] == pages[1]
    assert_legible(finding.pictures[0])


def test_runs_that_were_not_evaluated_alike_are_refused(tmp_path):
    arms = write_arms(tmp_path / "a")
    shorter = write_training(tmp_path / "s", 0, {"eval/pass@1": 0.5, f"{PLACE}/CC-II": 0}, step=60)
    with pytest.raises(GeomrlError, match="last evaluation at step: 60 and 90"):
        read_trainings(replace(arms, without=(shorter, *arms.without[1:])))
    fewer = write_training(tmp_path / "f", 0, {"eval/pass@1": 0.5}, evaluation={"samples": 4})
    with pytest.raises(GeomrlError, match="samples: 4 and 8"):
        read_trainings(replace(arms, without=(fewer, *arms.without[1:])))


def test_runs_without_what_is_judged_are_refused(tmp_path):
    arms = write_arms(tmp_path / "a")
    (arms.aligned[2] / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(GeomrlError, match="no evaluation in its metrics"):
        read_trainings(arms)
    other = write_arms(tmp_path / "b")
    with pytest.raises(GeomrlError, match=r"no eval/marker_end/final/CC-II .*before_marker/final"):
        settle_finding(other, "marker_end/final")
