"""Bars count."""

from geomrl.progress import Bar, progress_bar


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
