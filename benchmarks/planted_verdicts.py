"""Does `geomrl compare` name what was planted?

    python benchmarks/planted_verdicts.py --arm states --out /tmp/planted     # minutes
    python benchmarks/planted_verdicts.py --arm models --out /tmp/planted     # an hour on one core

50 seeded draws of each kind: nothing changed, only the policy, only a rotation, all problems
collapsed together, correct rollouts aligned per problem, and mixtures; 5 sizes or variants x 10
draws each. `--arm states` draws states from a law, `--arm models` edits the bundled reasoner's
weights and samples from both models. Results are appended to OUT/ARM.jsonl, so that a stopped run
goes on; `--seconds` stops it. Prints two tables in markdown: draws above the minimum effect that the
tool stated for them, and those below.

A size's true effect is the mean estimate over its draws: each draw has its own problems. A draw is
above its minimum effect where the true effect of every planted change is at least what its verdict
calls detectable (for a policy: on one of its three tests).
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from planted_states import Design

from geomrl.compare.verdict import NAMES, Evidence, decide

DRAWS = 10  # of each size
Cell = tuple[tuple[str, float], ...]
_P, _R = ("policy", 0.8), ("rotation", 0.5)
GRIDS: dict[str, dict[str, list[Cell]]] = {
    "states": {
        "none": [()] * 5,
        "policy": [(("policy", s),) for s in (-0.8, -0.4, 0.2, 0.4, 0.8)],
        "rotation": [(("rotation", s),) for s in (0.1, 0.15, 0.25, 0.5, 1.0)],
        "collapse": [
            (("collapse: shift", 0.04),), (("collapse: shift", 0.3),), (("collapse: shrink", 0.3),),
            (("collapse: problems", 0.4),), (("collapse: rank", 0.3),),
        ],
        "alignment": [
            *[(("alignment: shrink", s),) for s in (0.1, 0.4, 0.8)],
            *[(("alignment: push", s),) for s in (0.35, 0.7)],
        ],
        "mixed": [
            (_P, ("alignment: shrink", 0.5)), (_P, ("collapse: shift", 0.3)),
            (_R, ("alignment: push", 0.6)), (("collapse: shift", 0.3), ("alignment: shrink", 0.5)),
            (_P, _R),
        ],
    },
    "models": {
        "none": [()] * 5,
        "policy": [(("policy", s),) for s in (-0.6, -0.3, 0.25, 0.5, 0.8)],
        "rotation": [(("rotation", s),) for s in (0.1, 0.2, 0.4, 0.7, 1.0)],
        "collapse": [
            *[(("collapse: shift", s),) for s in (0.05, 0.15, 0.4)],
            *[(("collapse: shrink", s),) for s in (0.2, 0.5)],
        ],
        "alignment": [(("alignment", s),) for s in (0.03, 0.08, 0.15, 0.3, 0.6)],
        "mixed": [
            (_P, ("alignment", 0.3)), (_P, ("collapse: shift", 0.4)), (_R, ("alignment", 0.3)),
            (("collapse: shrink", 0.5), ("alignment", 0.3)), (_P, _R),
        ],
    },
}  # fmt: skip
DESIGNS = {"states": Design(60, 16), "models": Design(50, 8)}
_TESTS = {
    "policy": (("pass@1", 0), ("answers", 1), ("length", 0)),
    "rotation": (("rotation explains", 1),),
    "collapse": (("common share rises", 1), ("rank falls", -1)),
    "alignment": (("correct rollouts align", 1),),
}
"""The tests that speak for a component, and the direction in which they do; 0 is either."""


def run(arm: str, out: Path, seconds: float) -> Path:
    """Append the draws that are missing to OUT/ARM.jsonl, round by round over all kinds."""
    path = out / f"{arm}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["kind"], r["cell"], r["draw"]) for r in map(json.loads, lines)}
    planted_evidence = importlib.import_module(f"planted_{arm}").planted_evidence
    start = time.monotonic()
    for draw in range(DRAWS):
        for cell in range(5):
            for kind, cells in GRIDS[arm].items():
                if (kind, cell, draw) in done:
                    continue
                if time.monotonic() - start > seconds:
                    return path
                changes, seed = list(cells[cell]), 5 * draw + cell
                found = planted_evidence(changes, seed, DESIGNS[arm])
                entry = {"kind": kind, "cell": cell, "draw": draw, **record(found)}
                with path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
    return path


def record(evidence: Evidence) -> dict:
    """Return a draw's verdict, and the estimates and detectable effects that grade it."""
    verdict, geometry = decide(evidence), evidence.geometry
    rises = [geometry.cc, geometry.cc_over_ii, geometry.cc_over_ci, geometry.cc_over_floor]
    tests = {
        f.test: {"value": f.effect.value, "detectable": f.detectable} for f in verdict.findings
    }
    return {
        "verdict": verdict.name, "components": verdict.components, "tests": tests,
        "rises": [e.value for e in rises],
    }  # fmt: skip


def grade(arm: str, path: Path) -> pd.DataFrame:
    """Return one row a draw: kind, verdict, whether it is above its minimum effect, and if right."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    truth: dict[tuple[str, int], dict[str, float]] = {}
    for kind, cells in GRIDS[arm].items():
        for cell in range(len(cells)):
            mine = [r for r in rows if (r["kind"], r["cell"]) == (kind, cell)]
            if mine:
                values = {
                    t: np.mean([r["tests"][t]["value"] for r in mine]) for t in mine[0]["tests"]
                }
                values["correct rollouts align"] = np.min(
                    np.mean([r["rises"] for r in mine], axis=0)
                )
                truth[kind, cell] = values
    graded = []
    for r in rows:
        planted = {name.split(":")[0] for name, _ in GRIDS[arm][r["kind"]][r["cell"]]}
        values = truth[r["kind"], r["cell"]]
        above = all(_reaches(name, values, r["tests"], planted) for name in planted)
        # A mixture is right where its parts are: "mixed" of other parts is wrong.
        right = set(r["components"]) == planted
        graded.append((r["kind"], r["cell"], r["verdict"], above, right))
    return pd.DataFrame(graded, columns=["planted", "cell", "named", "above", "right"])


def _reaches(name: str, truth: dict[str, float], tests: dict, planted: set[str]) -> bool:
    """Say whether a planted change is at least what one of its tests calls detectable.

    In a mixture one change can undo another's mark: what counts is what is there, with its sign. The
    rank falls in an alignment too, so beside one it is no mark of a collapse.
    """
    for test, sign in _TESTS[name]:
        if test == "rank falls" and "alignment" in planted:
            continue
        size = abs(truth[test]) if sign == 0 else sign * truth[test]
        if size >= tests[test]["detectable"]:
            return True
    return False


def confusion(graded: pd.DataFrame) -> str:
    """Return the confusion matrix in markdown, with the share named rightly, parts included."""
    lines = [
        f"| planted | draws | {' | '.join(NAMES)} | right |",
        "|---|---|" + "---|" * (len(NAMES) + 1),
    ]
    for kind in NAMES:
        mine = graded[graded["planted"] == kind]
        if len(mine):
            counts = [int((mine["named"] == name).sum()) for name in NAMES]
            cells = " | ".join(str(n) if n else "." for n in counts)
            lines.append(f"| {kind} | {len(mine)} | {cells} | {100 * mine['right'].mean():.0f} % |")
    return "\n".join(lines)


def main() -> None:
    """Run, grade, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=list(GRIDS), default="states")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    graded = grade(options.arm, run(options.arm, options.out, options.seconds))
    for above, words in ((True, "at or above"), (False, "below")):
        part = graded[graded["above"] == above]
        print(f"\n{options.arm}, {words} the stated minimum effect ({len(part)} draws)\n")
        print(confusion(part))
    design = DESIGNS[options.arm]
    print(f"\n{design.problems} problems x {design.samples} samples a draw")
    print(graded.groupby(["planted", "cell"])[["above", "right"]].mean().round(2).to_string())


if __name__ == "__main__":
    main()
