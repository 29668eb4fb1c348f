"""How far and in how many directions each encoder's states spread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geomrl.compare.measures.measure import Compared, Measure
from geomrl.compare.rows import ENCODERS, Row
from geomrl.geometry import dimension
from geomrl.geometry.spectrum import matched_spectra


def spread_rows(at: Compared) -> Iterator[Row]:
    """Yield effective rank and participation ratio at matched n, and TwoNN, of each encoder."""
    for policy, paired in at.sets.items():
        groups = paired.groups
        pick = groups.one_each(at.settings.seed, "rank")
        for encoder, states in zip(ENCODERS, paired.both, strict=True):
            spectra, n = matched_spectra(states, groups, seed=at.settings.seed)
            for (measure, cell), interval in spectra.items():
                yield at.place.row(
                    measure, policy, encoder, interval, cell=cell, space="raw", n_problems=n
                )
            one_each = states[pick]
            if len(np.unique(one_each, axis=0)) >= dimension.FEWEST:
                found = dimension.two_nn(one_each)
                yield at.place.row("two_nn", policy, encoder, found, n_problems=len(pick))


MEASURE = Measure(
    rows=spread_rows,
    by_policy=True,
    labels={
        "effective_rank": "Effective rank",
        "participation_ratio": "",
        "two_nn": "TwoNN dimension",
    },
)
