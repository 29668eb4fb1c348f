"""What `geomrl ablate` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from geomrl.ablate.ablation import Ablation
from geomrl.ablate.readings import comparison_rows, comparison_title, honest_words


def print_ablation(ablation: Ablation, console: Console | None = None) -> None:
    """Print the comparisons with the baseline, with the controls, and how little could be seen."""
    console = console or Console()
    console.print(_table(ablation))
    for line in honest_words(ablation):
        console.print(f"[bright_black]{line}")


def _table(ablation: Ablation) -> Table:
    header, rows = comparison_rows(ablation)
    columns = [Column(name, no_wrap=number < 2) for number, name in enumerate(header)]
    shown = Table(
        *columns, title_justify="left", title=f"{ablation.path}: {comparison_title(ablation)}"
    )
    for cells, control in rows:
        shown.add_row(*cells, style="bright_black" if control else None)
    return shown
