"""How long the slowest text takes to read and to grade: random grammar, and long repetitions of it.

    python benchmarks/hostile_text.py --count 100000

Two parts. What the caller's own process runs on a text (markers, anchors, exact rules of grading,
paths, what a display shows) cannot be killed, so its CPU time is measured for every text. What
workers run can, so the first `--graded` texts are graded as answers too, and those that were ended
are counted.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from geomrl.probe.anchors import DEFAULT_ANCHORS, find_anchors
from geomrl.problems.arithmetic import operation_path
from geomrl.report.highlight import Highlighter
from geomrl.train.display import response_text
from geomrl.verify.grading import MAX_CHARACTERS, quick_equal
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.normal import normal_form
from geomrl.verify.verifier import MathVerifier

ATOMS = [
    *"0123456789xyab(){}[],;:.!?|<>=+-*/^_ %$&#~'\"`\n\t",
    "12", "1,000", ".5", "1/2", "5e9", "\\%", "\\frac{1}{2}", "\\frac", "\\dfrac", "\\sqrt", "\\sqrt{",
    "\\pi", "\\infty", "\\circ", "^{\\circ}", "^\\circ", "^2", "^{2}", "_{n}", "_", "\\cdot", "\\times",
    "\\times 10^", "\\overline{3}", "\\text{a}", "\\text{", "\\text{ cm}", "\\text{and}", "\\mathrm{e}",
    "\\left(", "\\right)", "\\{", "\\}", "\\in", "\\pm", "\\le", "\\approx", "\\cup", "\\ ", "\\!", "\\,",
    "\\quad", "\\hspace{", "\\\\", "\\", "\\boxed", "\\boxed{", "\\boxed {", "\\boxed{}", "\\boxed{5}",
    "\\fbox{", "\\boxed{ for it. ", "and", " or ", "so ", "the answer is ", " is the answer", "abc", "cm",
    "km/h", "m", "A)", "A:", "percent", "x = ", "f(x)=", "<answer>", "</answer>", "####", "</think>",
    "<think>", "3+4=7", "3 plus 4 is 7", " plus ", "½", "√", "²", "π", "，", "答案是", "\u2003", "\u200b",
    "🙂", "e\u0301", "\ud800",
]  # fmt: skip
MARKERS = [parse_marker(s) for s in (BOXED, "<answer>...</answer>", r"re:####\s*(.+)")]
BYTES = {i: bytes([i]) for i in range(256)}  # a byte-level vocabulary without merges


def hostile_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Yield short random texts, units repeated up to some length, and now and then a long response."""
    rng = random.Random(seed)

    def some(most: int) -> str:
        return "".join(rng.choices(ATOMS, k=rng.randint(0, most)))

    for number in range(count):
        length = 20_000 if number % 250 == 249 else rng.choice((40, 120, 250, 960))
        unit = some(4) or " "
        text = some(3) + unit * (length // len(unit)) + some(3)
        yield some(12) if number % 4 == 0 else text


def read_in_this_process(text: str) -> None:
    """Run on a text what no worker does."""
    boxed = f"\\boxed{{{text}}}"
    for marker in MARKERS:
        marker.find(text)
        marker.find(boxed)
    ids = list(text.encode("utf-8", "surrogatepass"))
    find_anchors(BYTES, ids, MARKERS[0], DEFAULT_ANCHORS)  # type: ignore[arg-type]
    for one, other in (("5", text), (text, "x = \\frac{1}{2}"), (text, text + "1")):
        quick_equal(one, other)
    normal_form(text[:MAX_CHARACTERS])
    operation_path(text)
    response_text(boxed)
    Highlighter(MARKERS[0], "before_marker", None).pieces(boxed, ids, None, 2000)


def cpu_seconds(do: Callable[[str], None], texts: Sequence[str]) -> np.ndarray:
    """CPU seconds of each text; the garbage collector waits, since its pauses belong to no text."""
    found = []
    gc.collect()
    gc.disable()
    try:
        for text in texts:
            begin = time.process_time()
            do(text)
            found.append(time.process_time() - begin)
    finally:
        gc.enable()
    return np.array(found)


def main() -> None:
    """Print the distribution of CPU time in the caller's process, and the verdicts of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--graded", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1.0, help="CPU seconds of a comparison")
    options = parser.parse_args()
    texts = list(hostile_texts(options.count, options.seed))
    seconds = cpu_seconds(read_in_this_process, texts)
    levels = {f"{q} %": np.percentile(seconds, q) for q in (50, 99, 99.9)} | {"max": seconds.max()}
    print(f"{options.count} texts, seed {options.seed}; CPU milliseconds in the caller's process:")
    print("  " + ", ".join(f"{name} {1000 * value:.2f}" for name, value in levels.items()))
    for index in np.argsort(seconds)[::-1][:5]:
        print(
            f"  {1000 * seconds[index]:.1f} ms, {len(texts[index])} characters: {texts[index][:60]!r}"
        )
    begin = time.perf_counter()
    with MathVerifier(workers=options.workers, timeout_s=options.timeout) as verifier:
        responses = [f"\\boxed{{{text}}}" for text in texts[: options.graded]]
        grades = verifier.grade(responses, ["\\frac{x+1}{2}"] * len(responses))
    print(
        f"{len(grades)} graded in {time.perf_counter() - begin:.0f} s,"
        f" limit {options.timeout:g} s of CPU time a comparison"
    )
    print("  verdicts:", dict(Counter(grade.verdict for grade in grades)))
    ended = Counter(grade.reason for grade in grades if grade.verdict == "timeout")
    print("  ended or failed:", dict(ended))


if __name__ == "__main__":
    main()
