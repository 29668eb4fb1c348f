"""Bars count."""

from geomrl.progress import Bar, LogLines, progress_bar


def test_a_bar_counts_from_where_it_is_set():
    seen: list[tuple[int, int]] = []
    bar = Bar(lambda *numbers: seen.append(numbers))
    bar.set(2, 5)
    bar.advance()
    bar.advance(2)
    assert seen == [(2, 5), (3, 5), (5, 5)]


def test_what_is_not_shown_counts_too(capsys):
    with progress_bar("states", "rollouts", show=False) as bar:
        bar.set(0, 3)
        bar.advance()
        assert (bar.done, bar.total) == (1, 3)
    assert capsys.readouterr().err == ""


def test_a_bar_is_shown_on_standard_error(capsys):
    with progress_bar("states", "rollouts") as bar:
        bar.set(1, 3)
        bar.advance(2)
    assert "3/3" in capsys.readouterr().err


def test_a_log_has_a_line_now_and_then_with_the_time_left():
    now, lines = [100.0], []
    log = LogLines("rollouts", "rollouts", lines.append, every=30, clock=lambda: now[0])
    log.show(400, 1600)  # what an earlier process did cost nothing now
    for _ in range(80):
        now[0] += 1
        log.show(log_done := 400 + int(now[0] - 100), 1600)
    log.close()
    assert lines == [
        "rollouts: 430/1600 rollouts, 0:00:30, 0:19:30 left",
        "rollouts: 460/1600 rollouts, 0:01:00, 0:19:00 left",
        f"rollouts: {log_done}/1600 rollouts, 0:01:20, 0:18:40 left",
    ]
    log.close()
    assert len(lines) == 3


def test_a_log_of_nothing_is_empty():
    lines = []
    LogLines("rollouts", "rollouts", lines.append).close()
    assert lines == []
