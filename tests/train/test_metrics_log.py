"""The log of a training run: whole lines, rewinding, reading; and what is shown on the way."""

from __future__ import annotations

import io
import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from geomrl.errors import GeomrlError, MissingExtra
from geomrl.train.batch import Sample
from geomrl.train.config import LogConfig
from geomrl.train.display import TrainDisplay, response_text
from geomrl.train.metrics_log import MetricsLog, read_metrics

PLAIN = LogConfig()


def write_steps(run, steps, **metrics):
    with MetricsLog(run, PLAIN) as log:
        for step in steps:
            log.append(step, {"reward/mean": step / 10, **metrics})


def test_a_line_a_step_and_every_digit_comes_back(tmp_path):
    exact = {"a": 0.1 + 0.2, "b": np.float64(1 / 3), "c": torch.tensor(1.5), "n": np.int64(7)}
    write_steps(tmp_path, [0, 1], **exact)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
    row = read_metrics(tmp_path).iloc[1]
    assert (row["a"], row["b"], row["c"], row["n"]) == (0.1 + 0.2, 1 / 3, 1.5, 7)
    assert '"n": 7' in lines[0]


def test_what_is_no_number_is_null_and_reads_as_nan(tmp_path):
    write_steps(tmp_path, [1], nan=float("nan"), inf=-float("inf"), none=None)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["nan"] is row["inf"] is row["none"] is None
    frame = read_metrics(tmp_path)
    assert frame[["nan", "inf", "none"]].isna().all(axis=None)
    assert frame["none"].dtype == float


def test_metrics_of_some_steps_only_are_nan_elsewhere(tmp_path):
    with MetricsLog(tmp_path, PLAIN) as log:
        log.append(0, {"eval/pass@1": 0.4})
        log.append(1, {"reward/mean": 0.1})
    frame = read_metrics(tmp_path)
    assert frame["step"].tolist() == [0, 1]
    pd.testing.assert_series_equal(
        frame["eval/pass@1"], pd.Series([0.4, np.nan], name="eval/pass@1")
    )


def test_an_interrupted_log_equals_one_never_interrupted(tmp_path):
    write_steps(tmp_path / "whole", range(6))
    torn = tmp_path / "torn"
    write_steps(torn, range(5))
    with (torn / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "rew')  # a kill in the midst of a line
    with MetricsLog(torn, PLAIN) as log:
        log.rewind(3)
        assert read_metrics(torn)["step"].tolist() == [0, 1, 2, 3]
        for step in (4, 5):
            log.append(step, {"reward/mean": step / 10})
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert (torn / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize(("step", "left"), [(9, [0, 1, 2]), (0, [0]), (-1, [])])
def test_rewinding_keeps_the_steps_up_to_one(tmp_path, step, left):
    write_steps(tmp_path, range(3))
    MetricsLog(tmp_path, PLAIN).rewind(step)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == left


def test_rewinding_what_is_not_there_makes_nothing(tmp_path):
    MetricsLog(tmp_path, PLAIN).rewind(3)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_read_while_its_last_line_is_written(tmp_path):
    write_steps(tmp_path, range(2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    assert read_metrics(tmp_path)["step"].tolist() == [0, 1]


def test_a_torn_line_in_the_midst_is_told(tmp_path):
    write_steps(tmp_path, [0])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "re\n{"step": 2}\n')
    with pytest.raises(GeomrlError, match=r"line 2: not a JSON object .*delete that line"):
        read_metrics(tmp_path)
    with pytest.raises(GeomrlError, match="line 2"):
        MetricsLog(tmp_path, PLAIN).rewind(9)


def test_no_training_run_and_no_line_yet(tmp_path):
    with pytest.raises(GeomrlError, match="geomrl train"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step"')
    with pytest.raises(GeomrlError, match="no whole line"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("library", "config"), [("tensorboard", {"tensorboard": True}), ("wandb", {"wandb": "p"})]
)
def test_a_logger_that_is_absent_is_told_at_once(tmp_path, monkeypatch, library, config):
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(MissingExtra, match=f"{library}.*not installed.*geomrl\\[{library}\\]"):
        MetricsLog(tmp_path, LogConfig(**config))


def test_tensorboard_gets_every_number_and_a_rewound_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = LogConfig(tensorboard=True)
    for steps, value in (((0, 1, 2), 1.0), ((2, 3), 5.0)):  # killed after 2, resumed from 1
        with MetricsLog(tmp_path, config) as log:
            log.rewind(steps[0] - 1)
            for step in steps:
                log.append(step, {"reward/mean": value, "none": None})
        time.sleep(1.1)  # the files are named, and read in order, by second
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    found = [(e.step, e.value) for e in events.Scalars("reward/mean")]
    assert found == [(0, 1.0), (1, 1.0), (2, 5.0), (3, 5.0)]


# What is shown


def sample(response, verdict="correct", **changes):
    fields = {
        "group": 0, "sample": 0, "benchmark": "b", "problem_id": "p", "problem": "1 + 1?",
        "gold": "2", "prompt": "1 + 1?", "prompt_kind": "raw", "prompt_ids": (1,),
        "response": response, "response_ids": (1,), "logprobs": (0.0,), "finish_reason": "stop",
        "seed": 0, "verdict": verdict, "answer": "2", "verdict_reason": None, "policy_step": 0,
        "reward": 1.0,
    }  # fmt: skip
    return Sample(**{**fields, **changes})


def shown(terminal, use):
    """What a display writes."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=160, color_system=None)
    with TrainDisplay(4, True, console) as display:
        use(display)
    return written.getvalue()


METRICS = {"reward/mean": 0.25, "pass_rate": 0.625, "align/CC": 0.9, "align/floor": 0.8, "lr": 1e-6}


def two_steps(display):
    display.phase("generate", 1, 8)
    display.step(0, {"eval/pass@1": 0.5})
    display.step(1, METRICS)


def test_without_a_terminal_there_is_one_plain_line_a_step():
    lines = shown(False, two_steps).splitlines()
    assert lines[0] == "step 0/4: held-out pass@1 50.0%"
    assert lines[1].startswith("step 1/4: reward 0.25, pass rate 62.5%, CC 0.900, floor 0.800, ")
    assert lines[1].endswith(" left")
    assert len(lines) == 2


def test_on_a_terminal_bars_and_the_latest_gauges_stay():
    text = shown(True, two_steps)
    assert "1/4" in text
    assert (
        "held-out pass@1 50.0%" in text.rpartition("1/4")[2]
    )  # step 1 has none: the last one stays
    assert "floor 0.800" in text


def test_an_error_leaves_the_terminal_usable():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with pytest.raises(RuntimeError, match="boom"), TrainDisplay(4, True, console):
        raise RuntimeError("boom")
    assert written.getvalue().rindex("\x1b[?25h") > written.getvalue().rindex("\x1b[?25l")  # cursor


def test_silent_is_silent():
    written = io.StringIO()
    with TrainDisplay(4, False, Console(file=written, force_terminal=True)) as display:
        two_steps(display)
        display.rollouts([sample("x")])
    assert written.getvalue() == ""


def test_time_left_follows_the_pace(monkeypatch):
    clock = iter([100.0, 130.0, 190.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines = shown(False, lambda d: [d.step(s, {}) for s in (1, 2, 4)]).splitlines()
    assert [line.endswith("left") for line in lines] == [False, True, False]
    assert lines[1].endswith("0:01:00 left")


def two_rollouts(display):
    long = "first " * 40 + "so the total is\n\\boxed{2} and \\boxed{[bold]2[/bold]} done"
    display.rollouts([sample(long), sample("no idea", "no_answer", reward=-1.0)])


def test_rollouts_show_how_they_end_as_a_table_on_a_terminal():
    text = shown(True, two_rollouts)
    assert "[bold]2[/bold]" in text  # a response is text, never markup
    assert "no_answer" in text
    assert "-1.00" in text
    assert "verdict" in text
    assert "first " * 15 not in text


def test_rollouts_are_a_line_each_elsewhere():
    first, second = shown(False, two_rollouts).splitlines()
    assert first.startswith("  correct, reward +1.00, gold 2: …")
    assert first.endswith("\\boxed{[bold]2[/bold]} done")
    assert second == "  no_answer, reward -1.00, gold 2: no idea"


@pytest.mark.parametrize(
    ("response", "marker", "bold"),
    [
        ("so it is \\boxed{2}.", "\\boxed{", ["is ", "\\boxed{2}"]),
        ("thus\\boxed{2}", "\\boxed{", ["thus", "\\boxed{2}"]),
        ("\\boxed{2}", "\\boxed{", ["\\boxed{2}"]),
        ("a #### 7", "re:####\\s*(.+)", ["a ", "#### 7"]),
        ("no answer here", "\\boxed{", []),
    ],
)  # fmt: skip
def test_the_anchor_and_the_marker_stand_out(response, marker, bold):
    text = response_text(response, marker)
    assert text.plain == response
    assert [text.plain[s.start : s.end] for s in text.spans if "bold" in str(s.style)] == bold


def test_a_long_response_is_cut_at_both_ends():
    text = response_text("x " * 500 + "is \\boxed{2}" + " y" * 500)
    assert "is \\boxed{2}" in text.plain
    assert text.plain.startswith("…")
    assert text.plain.endswith("…")
    assert len(text.plain) < 160
