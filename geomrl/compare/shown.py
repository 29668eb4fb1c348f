"""How a comparison's measures are shown: panels of its figures, charts of the HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geomrl.compare.measures.measure import Panel, Shown, shown_of
from geomrl.compare.place import MEASURES

_FIRST = (
    *("cosine", "cka", "procrustes", "rsa", "mutual_knn", "effective_rank", "two_nn", "auroc"),
    *("alignment", "lens_gold_logprob", "answer_decodability"),
)
"""The order in which figures and page show measures; others follow in the table's order."""


def charts(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the measures that the page draws by layer, with their titles.

    Args:
        record: the comparison's verdict file; measures of the user's have their labels there.
    """
    labels = {name: title for each in _shown(record) for name, title in each.labels.items()}
    return {name: labels[name] for name in sorted(labels, key=_place) if labels[name]}


def pictures(record: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """Return the pictures of a comparison with their panels; panels of one name are joined.

    Args:
        record: as for `charts`.
    """
    every = [panel for each in _shown(record) for panel in each.panels]
    found: dict[str, dict[str, Panel]] = {}
    for panel in sorted(every, key=lambda panel: _place(panel.lines[0].measure)):
        beside = found.setdefault(panel.picture, {})
        known = beside.get(panel.name)
        lines = (*known.lines, *panel.lines) if known else panel.lines
        beside[panel.name] = replace(known or panel, lines=lines)
    return {picture: list(panels.values()) for picture, panels in found.items()}


def _shown(record: Mapping[str, Any]) -> list[Shown]:
    return [*MEASURES, *map(shown_of, record.get("measures", ()))]


def _place(measure: str) -> int:
    return _FIRST.index(measure) if measure in _FIRST else len(_FIRST)
