"""What the logit lens gives the correct answer before it is written."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from geomrl.compare.measures.measure import Compared, Line, Measure, Panel
from geomrl.compare.rows import CHANGE, ENCODERS, Row
from geomrl.stats.effect import Effect, mean_effect


def lens_rows(at: Compared) -> Iterator[Row]:
    """Yield each corner's mean log-probability of the gold answer's first token, and changes."""
    means = at.lens.groupby(["policy", "encoder", "problem_id"])["gold_logprob"].mean()

    def effect(values: pd.Series) -> Effect:
        each = values.dropna().sort_index().to_numpy()
        return mean_effect(each, seed=at.settings.seed, label="lens", n_boot=at.settings.n_boot)

    for policy in sorted(set(at.lens["policy"])):
        base, rl = (means[policy].get(encoder) for encoder in ENCODERS)
        for encoder, values in (("base", base), ("rl", rl)):
            yield at.place.row("lens_gold_logprob", policy, encoder, effect(values), tested=False)
        yield at.place.row("lens_gold_logprob", policy, CHANGE, effect(rl - base))


MEASURE = Measure(
    rows=lens_rows,
    labels={"lens_gold_logprob": ""},
    panels=(
        Panel(
            picture="lens",
            name="lens_gold_logprob",
            title="Logit lens: correct answer",
            unit="Log-probability (nats)",
            lines=(
                Line(
                    series="base", label="before", measure="lens_gold_logprob", encoder="base",
                    dashed=True,
                ),
                Line(series="rl", label="after", measure="lens_gold_logprob", encoder="rl"),
            ),
        ),
    ),
)  # fmt: skip
