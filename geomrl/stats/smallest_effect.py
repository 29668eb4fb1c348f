"""Judge effects, one a seed, against 0 and against the smallest effect that matters.

| the 95 % t interval over seeds | word |
|---|---|
| lies above 0 | supported; where it also lies below the smallest effect, "smaller than claimed" |
| does not, and lies below the smallest effect | not supported |
| does neither, or fewer than `FEWEST_SEEDS` seeds are known | undecided |

Each wrong word has a chance of at most 2.5 %: "supported" where the truth is 0 or less, "not
supported" where the truth is the smallest effect or more (two one-sided tests, Schuirmann 1987,
Journal of Pharmacokinetics and Biopharmaceutics 15). A claim of two criteria (`overall`) is
supported where both are, not supported where either is not, else undecided: at most 2.5 % and 5 %.

The seed is the unit and the evaluated problems are fixed: nothing is said of other problems.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from geomrl.errors import GeomrlError
from geomrl.stats.paired import PairedDifference, paired_difference
from geomrl.stats.power import POWER, t_power

Word = Literal["supported", "not supported", "undecided"]
WORDS: tuple[Word, ...] = ("supported", "not supported", "undecided")
FEWEST_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One criterion's word, and what it rests on.

    Attributes:
        word: one of `WORDS`.
        effect: mean over seeds with its 95 % t interval; its `n` counts the seeds.
        smallest: the smallest effect that matters, in the effect's units.
        smaller_than_claimed: supported, and the interval lies below `smallest`.
        detectable: the smallest true effect that would be told apart from 0 with 80 % power.
        power: the chance that a true effect of `smallest` is told apart from 0.
        seeds_needed: seeds an arm that give 80 % power at `smallest`; None where no spread is known.

    The last three take the seen spread for the true one: with few seeds they are rough.
    """

    word: Word
    effect: PairedDifference
    smallest: float
    smaller_than_claimed: bool
    detectable: float
    power: float
    seeds_needed: int | None


def judge(effects: Float[np.ndarray, " seeds"], smallest: float) -> Judgement:
    """Judge a criterion by the module's rule.

    Args:
        effects: one a seed, NaN where it could not be measured; above 0 is what the paper claims.
        smallest: the smallest effect that matters, above 0.

    Raises:
        GeomrlError: `smallest` is not above 0.

    >>> judge(np.array([0.05, 0.06, 0.04, 0.05, 0.07]), 0.038).word
    'supported'
    >>> judge(np.array([0.01, -0.01, 0.0, 0.01, -0.01]), 0.038).word
    'not supported'
    >>> judge(np.array([0.1, 0.1]), 0.038).word
    'undecided'
    """
    if not smallest > 0:
        raise GeomrlError(f"smallest effect {smallest}: not above 0; name an effect that matters")
    effect = paired_difference(effects)
    known = effect.n >= FEWEST_SEEDS and not np.isnan(effect.low)
    above, below = known and effect.low > 0, known and effect.high < smallest
    word: Word = "supported" if above else "not supported" if below else "undecided"
    sd = effect.sd or np.nan  # all seeds alike: the spread is not known, and not 0
    unknown = effect.n < 2 or np.isnan(sd)
    return Judgement(
        word=word,
        effect=effect,
        smallest=smallest,
        smaller_than_claimed=above and below,
        detectable=effect.detectable,
        power=np.nan if unknown else t_power(smallest * np.sqrt(effect.n) / sd, effect.n - 1),
        seeds_needed=None if unknown else seeds_needed(sd, smallest),
    )


def seeds_needed(sd: float, smallest: float, *, power: float = POWER) -> int:
    """Return the number of seeds, `FEWEST_SEEDS` at least, that tell `smallest` apart from 0.

    With so many, a truth of 0 is also told apart from `smallest` as often: the rule is symmetric.

    Args:
        sd: standard deviation of one seed's effect, finite.
        smallest: the true effect, above 0.
        power: the chance of telling it apart with a two-sided test at 5 %.

    >>> seeds_needed(0.02, 0.038), seeds_needed(0.1, 0.038)
    (5, 57)
    """

    def enough(n: int) -> bool:
        return t_power(smallest * np.sqrt(n) / sd, n - 1) >= power

    top = FEWEST_SEEDS
    while not enough(top):
        top *= 2
    low = max(top // 2, FEWEST_SEEDS - 1)  # too few
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if enough(middle) else (middle, top)
    return top


def overall(words: Iterable[Word]) -> Word:
    """Return the claim's word: supported needs all criteria, one refuted refutes it.

    >>> overall(["supported", "undecided"]), overall(["undecided", "not supported"])
    ('undecided', 'not supported')
    """
    found = list(words)
    if "not supported" in found:
        return "not supported"
    return "supported" if found and all(word == "supported" for word in found) else "undecided"
