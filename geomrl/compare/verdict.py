"""The verdict of a comparison: none, policy, rotation, collapse, alignment or mixed.

| component | found where |
|---|---|
| policy | pass@1, the answers' distribution or the responses' length changed |
| rotation | a rotation fitted on other problems brings the encoders nearer, by the margin or more |
| collapse | what all problems have in common takes a larger share of the correct states, or the |
|          | effective rank falls while the centred cosine of correct rollouts does not rise |
| alignment | the centred cosine of correct rollouts rises, and more than that of wrong, of mixed |
|           | and of different-problem pairs |
| other | the encoders differ in shape, or correct rollouts draw together or apart, and neither of |
|       | the last two says how |

No component: `none`. One: its name. More than one, or `other` alone: `mixed`, and `components` says
of what. Encoders are compared on identical rollouts, so the last four cannot come from the policy.

A component needs two things: its test rejects "no change" at 5 %, Holm-adjusted over all tests, so
that where nothing changed the chance of naming anything is at most 5 %; and its estimate reaches a
margin, the smallest change worth a name, because two encoders never agree to the last digit and
with enough problems every difference is significant. Margins are stated before looking.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np

from geomrl.compare.encoder_change import GeometryEvidence
from geomrl.compare.policy_change import PolicyEvidence
from geomrl.stats.effect import Effect
from geomrl.stats.multiple import holm

NAMES = ("none", "policy", "rotation", "collapse", "alignment", "mixed")
_ROUNDING = 1e-6  # a spread that states in float32 have by rounding alone
COMPONENTS = ("policy", "rotation", "collapse", "alignment", "other")


@dataclass(frozen=True, kw_only=True)
class Margins:
    """The smallest changes that get a name, and the tests' family-wise level.

    cosine: of the centred cosine. share: of the common share. rank: share of the effective rank
    that is lost. similarity: of CKA and of the Procrustes score below 1. power: the chance of
    finding an effect that `Finding.detectable` states.
    """

    cosine: float = 0.05
    share: float = 0.05
    rank: float = 0.10
    similarity: float = 0.05
    level: float = 0.05
    power: float = 0.95


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on: the policies, and the encoders at one layer and anchor.

    `geometry` None: the encoders share no rollouts that can be compared there.
    """

    policy: PolicyEvidence
    geometry: GeometryEvidence | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One test of the family.

    `detectable` is the smallest true effect that would be found with the margins' power, given the
    standard error that was seen; NaN where nothing could be estimated, or where no problem differs and
    so nothing is known of how they vary. For alignment it holds for
    each of the four rises that are asked for.
    """

    test: str
    component: str
    effect: Effect
    p: float
    p_holm: float
    margin: float
    detectable: float
    shown: bool


@dataclass(frozen=True)
class Verdict:
    """The name, what it is made of, every test, and remarks on what could not be judged."""

    name: str
    components: tuple[str, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Test:
    test: str
    component: str
    effect: Effect
    _: KW_ONLY
    p: float
    margin: float  # in the direction of `sign`
    sign: int = 0  # 0: two-sided
    also: bool = True  # what else must hold
    slowest: Effect | None = None  # whose spread decides what is detectable, where not `effect`


def decide(evidence: Evidence, margins: Margins | None = None) -> Verdict:
    """Name what changed between two models.

    Args:
        evidence: see `Evidence`.
        margins: see `Margins`.
    """
    margins = margins or Margins()
    tests = _policy_tests(evidence.policy)
    if evidence.geometry is not None:
        tests += _geometry_tests(evidence.geometry, margins)
    adjusted = holm([test.p for test in tests])
    findings = tuple(
        _finding(test, p, len(tests), margins)
        for test, p in zip(tests, adjusted.tolist(), strict=True)
    )
    shown = {finding.component for finding in findings if finding.shown}
    if "alignment" in shown:  # the rank falls with the noise that alignment removes
        rank = {f.component for f in findings if f.shown and f.test != "rank falls"}
        shown &= rank
    if shown & {"alignment", "collapse"}:
        shown.discard("other")
    components = tuple(c for c in COMPONENTS if c in shown)
    single = len(components) == 1 and components[0] != "other"
    name = components[0] if single else "mixed" if components else "none"
    return Verdict(name, components, findings, _remarks(evidence, findings))


def _policy_tests(policy: PolicyEvidence) -> list[_Test]:
    return [
        _Test("pass@1", "policy", policy.pass_at_1, p=policy.pass_at_1.p, margin=0.0),
        _Test("answers", "policy", policy.answers, p=policy.answers.p, margin=0.0, sign=1),
        _Test("length", "policy", policy.log_length, p=policy.log_length.p, margin=0.0),
    ]


def _geometry_tests(found: GeometryEvidence, margins: Margins) -> list[_Test]:
    # Alignment must rise by itself and beyond three others: the largest p (Berger 1982, an
    # intersection-union test) has the level of one test.
    beyond = (found.cc, found.cc_over_ii, found.cc_over_ci, found.cc_over_floor)
    rises = [e.p_above(0.0) for e in beyond]
    noisiest = max(beyond, key=lambda effect: effect.reach(margins.level))
    lost = -float(np.log1p(-margins.rank))
    cc, share, rank, cka = found.cc, found.common_share, found.log_rank, found.cka
    near = margins.similarity
    return [
        _Test(
            "rotation explains",
            "rotation",
            found.gain,
            p=found.gain.p_above(0.0),
            margin=near,
            sign=1,
        ),
        _Test(
            "common share rises",
            "collapse",
            share,
            p=share.p_above(0.0),
            margin=margins.share,
            sign=1,
        ),
        _Test(
            "rank falls",
            "collapse",
            rank,
            p=rank.p_below(0.0),
            margin=lost,
            sign=-1,
            also=_no_gain(cc, margins),
        ),
        _Test(
            "correct rollouts align",
            "alignment",
            cc,
            p=_largest(rises),
            margin=margins.cosine,
            sign=1,
            slowest=noisiest,
        ),
        _Test(
            "shape differs",
            "other",
            _from_one(cka),
            p=cka.p_below(1.0 - near),
            margin=near,
            sign=-1,
        ),
        _Test(
            "correct rollouts draw together or apart", "other", cc, p=cc.p, margin=margins.cosine
        ),
    ]


def _no_gain(cc: Effect, margins: Margins) -> bool:
    """Say whether the centred cosine is shown not to have risen by the margin."""
    return bool(cc.p_below(margins.cosine) < margins.level)


def _from_one(cka: Effect) -> Effect:
    """Return CKA - 1: no change is 0."""
    return replace(cka, value=cka.value - 1, low=cka.low - 1, high=cka.high - 1)


def _largest(ps: list[float]) -> float:
    return float("nan") if np.isnan(ps).any() else max(ps)


def _finding(test: _Test, p_holm: float, n_tests: int, margins: Margins) -> Finding:
    value = test.effect.value
    size = abs(value) if test.sign == 0 else test.sign * value
    shown = bool(p_holm < margins.level and size >= test.margin and test.also)
    sides = 2 if test.sign == 0 else 1
    noise = test.slowest or test.effect
    by_test = noise.reach(margins.level / sides / n_tests)
    by_power = noise.reach(1 - margins.power)
    if noise.se < _ROUNDING:  # no problem differs, so nothing is known of what would be found
        by_power = float("nan")
    # CKA's test starts from the margin itself; the others from 0, and must reach the margin.
    from_margin = test.test == "shape differs"
    detectable = by_power + (test.margin + by_test if from_margin else max(by_test, test.margin))
    return Finding(
        test=test.test,
        component=test.component,
        effect=test.effect,
        p=test.p,
        p_holm=p_holm,
        margin=test.margin,
        detectable=detectable,
        shown=shown,
    )


def _remarks(evidence: Evidence, findings: tuple[Finding, ...]) -> tuple[str, ...]:
    found = []
    if evidence.geometry is None:
        found.append("no state could be compared here: the verdict is about the policy alone")
    untested = [f.test for f in findings if np.isnan(f.p)]
    if untested:
        found.append(
            f"not tested, for lack of problems with the needed rollouts: {', '.join(untested)}"
        )
    few = [f.effect.n_problems for f in findings if f.effect.n_problems < 10 and not np.isnan(f.p)]
    if few:
        found.append(f"some tests rest on {min(few)} problems: their level and power are rough")
    return tuple(found)
