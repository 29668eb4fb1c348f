"""How every picture looks: sizes, type, colours, names of cells, footnotes.

Sizes are a journal's columns, type is never below 7 pt, fonts are embedded as Type 42 so that
editors can change the text. Colours are Okabe & Ito's, which people with any colour blindness
can tell apart; a cell or a verdict has one colour in all pictures, and also its own marker, so
that a grey print still reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

SINGLE_COLUMN = 3.3  # inches
DOUBLE_COLUMN = 6.9

_FONT_PT = 7.0
_HANDLE_EMS = 4.2  # what a legend's column needs besides its text
_UNBROKEN = 30  # characters of a footnote's part that is not split over lines
_LINE_INCH = _FONT_PT * 1.35 / 72

# DejaVu Sans comes with matplotlib: the layout is the same on every machine.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": _FONT_PT,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelsize": _FONT_PT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelpad": 3.0,
    "xtick.labelsize": _FONT_PT,
    "ytick.labelsize": _FONT_PT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "legend.fontsize": _FONT_PT,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "patch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 300,
    "savefig.dpi": "figure",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "image.cmap": "cividis",
}

INK = "#222222"
GREY = "#7A7A7A"
PALE = "#D9D9D9"

SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"


@dataclass(frozen=True)
class Look:
    """Colour, marker and words of one series."""

    colour: str
    marker: str
    label: str


CELL_LOOKS: dict[str, Look] = {
    "CC": Look("#0072B2", "o", "correct–correct"),
    "II_same_answer": Look("#E69F00", "D", "wrong–wrong, same answer"),
    "II": Look("#D55E00", "s", "wrong–wrong"),
    "II_diff_answer": Look("#A0522D", "P", "wrong–wrong, different answers"),
    "CI": Look("#CC79A7", "^", "correct–wrong"),
    "CC_cross_same_answer": Look("#009E73", "v", "correct, other problem, same answer"),
    "CC_cross": Look("#56B4E9", "<", "correct, other problem"),
    "floor": Look(GREY, "X", "different problems (floor)"),
}
"""Every cell's look; the order is that of legends."""

ROLLOUTS: dict[str, Look] = {
    "C": Look(CELL_LOOKS["CC"].colour, "o", "correct rollouts"),
    "I": Look(CELL_LOOKS["II"].colour, "s", "wrong rollouts"),
    "all": Look(INK, "P", "all rollouts"),
}
"""Cells of single rollouts, of measures that are not made of pairs."""

VERDICTS: dict[str, Look] = {
    "correct": Look(CELL_LOOKS["CC"].colour, "o", "correct"),
    "wrong": Look(CELL_LOOKS["II"].colour, "X", "wrong"),
    "no_answer": Look(GREY, "s", "no answer"),
    "timeout": Look(INK, "^", "timed out"),
}

PROBLEM_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#117733", "#999933", "#AA4499", "#A0522D"),
)
"""A dozen colours for problems; pictures also number the problems, as no dozen is safe alone."""

SPACES = {"raw": "Raw", "centred": "Centred", "whitened": "Whitened"}


def cell_look(cell: str) -> Look:
    """Return a cell's look; a contrast "A-B" takes the colour of B, what is subtracted."""
    known = CELL_LOOKS | ROLLOUTS
    if cell in known:
        return known[cell]
    first, _, second = cell.partition("-")
    other = CELL_LOOKS.get(second, Look(INK, "o", second))
    return Look(
        other.colour, other.marker, f"{first.replace('_', ' ')} − {second.replace('_', ' ')}"
    )


def cell_label(cell: str) -> str:
    """Return a cell's legend entry: its words, and its short name where the words lack it.

    >>> cell_label("CC")
    'CC: correct–correct'
    """
    if cell in ("CC", "II", "CI"):
        return f"{cell}: {CELL_LOOKS[cell].label}"
    return cell_look(cell).label


@contextmanager
def style() -> Iterator[None]:
    """Apply the theme to what is drawn and saved inside, and to nothing after it."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a picture
        mpl.rcParams.update(_STYLE)
        yield


@dataclass(frozen=True)
class Provenance:
    """Where a picture's numbers come from: what its footnote says."""

    policy: str
    encoder: str
    seed: int | None = None
    benchmark: str = ""

    def footnote(self, *parts: str) -> str:
        """Return the footnote: `parts` (numbers, methods), then seed, policy and encoder."""
        models = (
            [f"policy and encoder {shorten(self.policy)}"]
            if self.policy == self.encoder
            else [f"policy {shorten(self.policy)}", f"encoder {shorten(self.encoder)}"]
        )
        drawn = [] if self.seed is None else [f"seed {self.seed}"]
        named = [f"benchmark {shorten(self.benchmark)}"] if self.benchmark else []
        notes = [*(p for p in parts if p), *drawn, *named, *models]
        # Short notes stay on one line: a no-break space (U+00A0) is no place to wrap.
        return "; ".join(n.replace(" ", "\u00a0") if len(n) <= _UNBROKEN else n for n in notes)


def shorten(name: str, limit: int = 32) -> str:
    """Return a model's name fit for a footnote: no folders, and its middle cut where too long.

    >>> shorten("/data/runs/42/checkpoints/Qwen3-4B-DAPO")
    'Qwen3-4B-DAPO'
    >>> shorten("a-very-long-name-of-a-model-with-many-words-v2", limit=21)
    'a-very-lon…y-words-v2'
    """
    last = name.rstrip("/").rsplit("/", 1)[-1] or name
    if len(last) <= limit:
        return last
    head = (limit - 1) // 2
    return f"{last[:head]}…{last[len(last) - (limit - 1 - head) :]}"


def plain(text: str) -> str:
    """Return text that matplotlib does not read as a formula: names may contain dollar signs."""
    return text.replace("$", r"\$")


def count(number: int, noun: str) -> str:
    """Return "1,234 nouns"; `noun` is singular.

    >>> count(1234, "pair"), count(1, "state")
    ('1,234 pairs', '1 state')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span(numbers: Iterable[float], noun: str) -> str:
    """Return a count or the range of several: "80 problems", "37–80 problems", "" for none."""
    known = sorted({int(n) for n in numbers if n == n})
    if not known:
        return ""
    if len(known) == 1:
        return count(known[0], noun)
    return f"{known[0]:,}–{known[-1]:,} {noun}s"


def signed(value: float, digits: int = 3) -> str:
    """Return a number with a true minus sign.

    >>> signed(-0.0514)
    '−0.051'
    """
    return f"{value:.{digits}f}".replace("-", "−")


def text_width(text: str) -> float:
    """Return the width in inches of one line of text in the theme's font."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(_FONT_PT, 7200)  # so fine that no hinting rounds it
    font.set_text(text, 0.0)
    return font.get_width_height()[0] / 64 / 7200


def wrap(text: str, width: float) -> list[str]:
    """Break text at its spaces into lines of at most `width` inches, as full as they go."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def new_figure(width: float, height: float, footnote: str) -> Figure:
    """Return an empty figure, `width` x `height` inches of picture above a wrapped footnote."""
    lines = wrap(footnote, width - 0.15)
    foot = len(lines) * _LINE_INCH + 0.06
    total = height + foot
    figure = Figure(figsize=(width, total), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.06, h_pad=0.04, rect=(0, foot / total, 1, 1 - foot / total))
    figure.text(
        0.05 / width,
        0.04 / total,
        "\n".join(lines),
        fontsize=_FONT_PT,
        color="#555555",
        va="bottom",
        linespacing=1.25,
        parse_math=False,
    )
    return figure


def few_ticks(intervals: int = 4) -> MaxNLocator:
    """Return a locator of at most so many intervals between round ticks, for short axes."""
    return MaxNLocator(nbins=intervals, steps=[1, 2, 2.5, 5, 10])


def whole_ticks() -> MaxNLocator:
    """Return a locator for counts: whole numbers only."""
    return MaxNLocator(nbins=4, integer=True)


def panel_title(axes: Axes, index: int, title: str, *, letters: bool = True) -> None:
    """Title a panel as journals do: a bold letter, then the words."""
    letter = f"$\\mathbf{{{chr(ord('a') + index)}}}$  " if letters else ""
    axes.set_title(letter + title)


def cell_handles(cells: Sequence[str]) -> list[Line2D]:
    """Return legend handles for cells or contrasts: a line with the cell's marker."""
    handles = []
    for cell in cells:
        look = cell_look(cell)
        handles.append(
            Line2D([], [], color=look.colour, marker=look.marker, label=cell_label(cell))
        )
    return handles


def top_legend(figure: Figure, handles: Sequence[Any], width: float) -> None:
    """Put one legend above all panels, in as many columns as the labels leave room for."""
    longest = max((text_width(str(h.get_label())) for h in handles), default=0.0)
    column = longest + _HANDLE_EMS * _FONT_PT / 72
    columns = max(1, min(len(handles), int(width / column)))
    rows = -(-len(handles) // columns)
    balanced = -(-len(handles) // rows)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=balanced)
