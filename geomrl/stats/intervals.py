"""Confidence intervals over problems: rollouts of one problem are not independent.

All intervals are nominally 95 %. The resampled unit ("cluster") is the problem. Means and means
over pairs of problems get bootstrap-t intervals: each draw is studentised by its own standard
error, so that the interval leans the way the data do. Other statistics get jackknife-t intervals
from leave-one-out replicates.

Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 11 and 12.5
(bootstrap-t, variance stabilising); Efron 1982 (infinitesimal jackknife); Arvesen 1969
(jackknife of U-statistics).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Self

import numpy as np
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.seeds import derive_seed
from geomrl.stats.bootstrap import TAILS, bootstrap_t, resample_counts, wilson
from geomrl.stats.distributions import t_quantile

FEW = 10
"""Below this many clusters (or mixed problems) intervals come with a warning."""
_ALL_EQUAL = "all problems have the same value: no spread to make an interval from"
_AT_AN_END = "all problems have the same value: Wilson's interval of as many draws as problems"
_SHARES = (0.0, 1.0)  # bounds of what a problem can have none or all of
_ZERO = 1e-9  # spreads below this share of the values' scale are rounding


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over problems.

    `low` and `high` are NaN where no interval can be given; `warning` then says why, and otherwise
    what weakens it. `n_boot` is 0 for jackknife-t intervals.
    """

    value: float
    low: float
    high: float
    _: KW_ONLY
    n_clusters: int
    n_boot: int
    seed: int
    warning: str | None = None

    @classmethod
    def missing(cls, value: float, n_clusters: int, seed: int, why: str) -> Self:
        """Return a value that has no interval, and why."""
        return cls(value, np.nan, np.nan, n_clusters=n_clusters, n_boot=0, seed=seed, warning=why)


def mean_interval(
    values: Float[np.ndarray, " clusters"],
    *,
    seed: int = 0,
    label: str = "mean",
    n_boot: int = 2000,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the mean of one value a problem with its bootstrap-t interval.

    With `bounds` the interval is made on the variance-stabilised (arcsine) scale, where the spread
    of a bounded mean no longer depends on the mean, never leaves them, and is never wider than
    Wilson's: give (0, 1) for pass@k and (-1, 1) for cosines. Where no problem or every problem is
    solved, so that all values lie on one end of (0, 1), there is no spread to resample and the
    interval is Wilson's, with n the number of problems and `n_boot` 0.

    Args:
        values: one per problem, finite.
        seed: the run's seed.
        label: names the draw; intervals with the same label and number of problems share draws.
        n_boot: bootstrap draws.
        bounds: limits that the values cannot leave.

    Raises:
        GeomrlError: a value is not finite or lies outside `bounds`.
    """
    values = np.asarray(values, dtype=float)
    _check(values, bounds)
    n = len(values)
    value = float(values.mean()) if n else float("nan")
    if n > 1 and _at_an_end(values, bounds):
        return _wilson_interval(value, n, n, seed)
    scale = bounds[1] - bounds[0] if bounds else abs(value)
    reason = _no_interval(n, float(np.ptp(values)) if n else 0.0, scale)
    if reason:
        return Interval.missing(value, n, seed, reason)
    deviations = values - value
    se = float(np.sqrt(deviations @ deviations / (n * (n - 1))))
    counts = resample_counts(n, n_boot, derive_seed(seed, "bootstrap", label))  # [boot, n]
    shifts = counts @ deviations / n  # [boot], mean of each draw minus the mean
    squares = counts @ deviations**2 / n
    draw_se = np.sqrt(np.maximum(squares - shifts**2, 0.0) / (n - 1))
    low, high, weak = bootstrap_t(value, se, shifts=shifts, errors=draw_se, bounds=bounds, n=n)
    return Interval(
        value,
        low,
        high,
        n_clusters=n,
        n_boot=n_boot,
        seed=seed,
        warning=_warning(values, bounds, weak),
    )


def mean_of_means_interval(
    strata: Sequence[Float[np.ndarray, " clusters"]],
    *,
    seed: int = 0,
    label: str = "mean of means",
    n_boot: int = 2000,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the unweighted mean of several strata's means with its bootstrap-t interval.

    Such as the average of benchmarks' pass@1, each a mean over its own problems: a benchmark of 30
    problems weighs as much as one of 674. The strata are fixed, and their problems are drawn
    independently of each other: every draw resamples each stratum within itself, and the variance
    is the sum of the strata's, sum_b var_b / (n_b B^2). One stratum gives `mean_interval`.

    A stratum without spread adds no variance, though it is not known without error: `warning` says
    so. Where every value of every stratum lies on the same end of (0, 1), the interval is Wilson's of
    the n that a mean of so many values would need to vary as this one can: B^2 / sum_b 1 / n_b.
    `n_clusters` counts the problems of all strata.

    Args:
        strata: one array of values a stratum.
        seed: the run's seed.
        label: names the draws; stratum s > 0 has its own, "label/s".
        n_boot: bootstrap draws.
        bounds: as in `mean_interval`.

    Raises:
        GeomrlError: there is no stratum, a stratum is empty, or a value cannot be used.
    """
    parts = [np.asarray(values, dtype=float) for values in strata]
    if not parts or any(len(part) == 0 for part in parts):
        raise GeomrlError("a mean of means needs at least one value in every stratum; leave it out")
    if len(parts) == 1:
        return mean_interval(parts[0], seed=seed, label=label, n_boot=n_boot, bounds=bounds)
    for part in parts:
        _check(part, bounds)
    means = np.array([part.mean() for part in parts])
    value, n, b = float(means.mean()), sum(map(len, parts)), len(parts)
    if min(map(len, parts)) > 1 and _at_an_end(np.concatenate(parts), bounds):
        alike = _equivalent_size(means, [len(part) for part in parts], bounds)
        return _wilson_interval(value, n, alike, seed)
    spreads = [float(np.ptp(part)) for part in parts]
    scale = bounds[1] - bounds[0] if bounds else float(np.abs(means).max())
    reason = _no_interval(min(map(len, parts)), max(spreads), scale)
    if reason:
        return Interval.missing(value, n, seed, reason)
    variance, shifts, draw_variance = 0.0, np.zeros(n_boot), np.zeros(n_boot)
    for number, (part, mean) in enumerate(zip(parts, means, strict=True)):
        m, own = len(part), f"{label}/{number}" if number else label
        deviations = part - mean
        variance += float(deviations @ deviations) / (m * (m - 1) * b * b)
        counts = resample_counts(m, n_boot, derive_seed(seed, "bootstrap", own))
        shift = counts @ deviations / m
        shifts += shift / b
        squares = counts @ deviations**2 / m
        draw_variance += np.maximum(squares - shift**2, 0.0) / ((m - 1) * b * b)
    share = _equivalent_size(means, [len(part) for part in parts], bounds) / n
    low, high, weak = bootstrap_t(
        value,
        float(np.sqrt(variance)),
        shifts=shifts,
        errors=np.sqrt(draw_variance),
        bounds=bounds,
        n=n,
        share=share,
    )
    flat = sum(spread <= _ZERO * max(scale, 1e-300) for spread in spreads)
    if flat:
        words = f"{flat} of {b} strata have no spread and add none: the interval is too short"
        weak = "; ".join(filter(None, [weak, words]))
    return Interval(
        value,
        low,
        high,
        n_clusters=n,
        n_boot=n_boot,
        seed=seed,
        warning=_warning(np.concatenate(parts), bounds, weak),
    )


def _equivalent_size(
    means: Float[np.ndarray, " strata"], sizes: Sequence[int], bounds: tuple[float, float] | None
) -> float:
    """Return the n for which a mean of n values on the bounds varies as much as the strata can."""
    b = len(means)
    if bounds is None:
        return float(b * b / sum(1 / size for size in sizes))
    p = (means - bounds[0]) / (bounds[1] - bounds[0])
    most = sum(x * (1 - x) / size for x, size in zip(p, sizes, strict=True)) / (b * b)
    whole = float(p.mean() * (1 - p.mean()))
    return whole / most if most > 0 else float(b * b / sum(1 / size for size in sizes))


def pair_interval(
    sums: Float[np.ndarray, "clusters clusters"],
    weights: Float[np.ndarray, "clusters clusters"],
    *,
    seed: int = 0,
    label: str = "pairs",
    n_boot: int = 2000,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return sum_{p != q} sums / sum_{p != q} weights with its bootstrap-t interval over problems.

    A U-statistic-like mean over pairs of different problems, such as the floor. Problems are
    drawn, not pairs; a problem that is drawn twice never pairs with its own copy (such pairs would
    pull the draw towards the within-problem value). Standard errors, of the value and of every
    draw, are infinitesimal jackknives: cluster p's influence is
    2 (sum_q sums_pq - value * sum_q weights_pq) / total weight.

    Args:
        sums: the weighted sum of what is averaged, by pair of problems; the diagonal is ignored.
        weights: 0 where a pair of problems takes no part.
        seed: the run's seed.
        label: names the draw; intervals with the same label and number of problems share draws.
        n_boot: bootstrap draws.
        bounds: as in `mean_interval`.
    """
    taking_part = np.flatnonzero(((weights + weights.T) * ~np.eye(len(weights), dtype=bool)).any(1))
    sums, weights = (_symmetric(x[np.ix_(taking_part, taking_part)]) for x in (sums, weights))
    n = len(taking_part)
    if n < 2:
        return Interval.missing(np.nan, n, seed, "no pair of different problems")
    value = float(sums.sum() / weights.sum())
    excess = sums - value * weights
    reason = _no_interval(n, float(np.abs(excess).max()), abs(value))
    if n == 2:
        reason = "a single pair of problems has no spread"
    if reason:
        return Interval.missing(value, n, seed, reason)
    ones = np.ones((1, n), dtype=np.float32)
    counts = resample_counts(n, n_boot, derive_seed(seed, "bootstrap", label))
    counts = np.concatenate([ones, counts.astype(np.float32)])  # row 0 is the sample itself
    # float32 is enough: the excess is centred, and only its ratio to the standard error matters.
    scale = float(np.abs(excess).max())
    pulls = counts @ (excess / scale).astype(np.float32)  # [1 + boot, n]
    masses = counts @ weights.astype(np.float32)
    totals = np.einsum("bn,bn->b", counts, masses).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifts = np.einsum("bn,bn->b", counts, pulls) / totals
        pulls -= shifts[:, None].astype(np.float32) * masses
        spread = np.einsum("bn,bn,bn->b", counts, pulls, pulls)
        errors = 2.0 * np.sqrt(spread * n / (n - 1)) / totals
    usable = totals[1:] > 0  # a draw may contain no pair at all where few problems pair
    low, high, weak = bootstrap_t(
        value,
        float(errors[0] * scale),
        shifts=shifts[1:][usable] * scale,
        errors=errors[1:][usable] * scale,
        bounds=bounds,
        n=n,
        share=0.5,  # a mean over pairs of n varies at most twice as a mean over n does
    )
    return Interval(
        value,
        low,
        high,
        n_clusters=n,
        n_boot=int(usable.sum()),
        seed=seed,
        warning=_warning(np.empty(n), None, weak),
    )


def jackknife_interval(
    value: float, replicates: Float[np.ndarray, " groups"], *, n_clusters: int, seed: int = 0
) -> Interval:
    """Return a value with its jackknife-t interval from leave-one-group-out replicates.

    The standard error is sqrt((g-1)/g * sum (replicate - their mean)^2) and the t quantile has g-1
    degrees of freedom. It serves smooth statistics of all clusters that are no plain mean.

    Args:
        value: the statistic on all clusters.
        replicates: the statistic without each group in turn (a group may be one cluster).
        n_clusters: clusters behind `value`.
        seed: recorded only; nothing is drawn.
    """
    kept = np.asarray(replicates, dtype=float)
    kept = kept[np.isfinite(kept)]
    g = len(kept)
    if not np.isfinite(value) or g < 2 or g < len(replicates):
        reason = "too few problems to leave one out"
        return Interval.missing(value, n_clusters, seed, reason)
    se = np.sqrt((g - 1) / g * ((kept - kept.mean()) ** 2).sum())
    if se <= _ZERO * max(abs(value), 1e-300):
        return Interval.missing(value, n_clusters, seed, _ALL_EQUAL)
    reach = float(t_quantile(TAILS[1], g - 1) * se)
    warning = _few(n_clusters) if n_clusters < FEW else None
    return Interval(
        value,
        value - reach,
        value + reach,
        n_clusters=n_clusters,
        n_boot=0,
        seed=seed,
        warning=warning,
    )


def _at_an_end(values: Float[np.ndarray, " clusters"], bounds: tuple[float, float] | None) -> bool:
    """Say whether these are shares of which all are 0, or all are 1."""
    return bounds == _SHARES and any(bool((np.abs(values - end) <= _ZERO).all()) for end in bounds)


def _wilson_interval(value: float, n_clusters: int, n: float, seed: int) -> Interval:
    low, high = wilson(value, _SHARES, n)
    # At an end the limit there is the end itself; rounding must not put it beyond the value.
    low, high = max(0.0, min(low, value)), min(1.0, max(high, value))
    warning = "; ".join([_AT_AN_END, *([_few(n_clusters)] if n_clusters < FEW else [])])
    return Interval(value, low, high, n_clusters=n_clusters, n_boot=0, seed=seed, warning=warning)


def _check(values: Float[np.ndarray, " clusters"], bounds: tuple[float, float] | None) -> None:
    if not np.isfinite(values).all():
        where = np.flatnonzero(~np.isfinite(values))[:5].tolist()
        raise GeomrlError(
            f"values at positions {where} are not finite: leave out problems without a value "
            f"before asking for an interval"
        )
    slack = 1e-9
    if bounds and ((values < bounds[0] - slack) | (values > bounds[1] + slack)).any():
        raise GeomrlError(
            f"values from {values.min():g} to {values.max():g}: outside the stated bounds "
            f"{bounds[0]:g} to {bounds[1]:g}; give the bounds of this quantity or none"
        )


def _no_interval(n: int, spread: float, scale: float) -> str | None:
    """Return why there can be no interval, or None."""
    if n < 2:
        return f"{n} problems: an interval needs at least two"
    return _ALL_EQUAL if spread <= _ZERO * max(scale, 1e-300) else None


def _warning(
    values: Float[np.ndarray, " clusters"], bounds: tuple[float, float] | None, weak: str | None
) -> str | None:
    """Return what weakens an interval of these values, or None."""
    found = [weak] if weak else []
    if len(values) < FEW:
        found.append(_few(len(values)))
    elif bounds:
        mixed = int(((values > bounds[0]) & (values < bounds[1])).sum())
        if mixed < FEW:
            found.append(
                f"only {mixed} of {len(values)} problems lie between {bounds[0]:g} and "
                f"{bounds[1]:g}: the interval may be too short"
            )
    return "; ".join(found) or None


def _few(n: int) -> str:
    return f"only {n} problems: the interval may be too short"


def _symmetric(
    x: Float[np.ndarray, "clusters clusters"],
) -> Float[np.ndarray, "clusters clusters"]:
    both = (x + x.T) / 2.0
    np.fill_diagonal(both, 0.0)
    return both
