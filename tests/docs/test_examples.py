"""Each Python example of the pages runs; those of the tutorials do in test_docs.py."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_readme import PAGES, ROOT, run_example, text

from geomrl.compare.encoder_change import geometry_evidence, pair_states
from geomrl.compare.measures.measure import Compared, PlaceSettings
from geomrl.compare.place import own_rows
from geomrl.compare.rows import Place
from geomrl.probe.response import Response
from geomrl.rollout.engines import engine_class
from geomrl.rollout.engines.transformers import TransformersEngine
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.imports.formats import opened

DOCS = ROOT / "docs"
TRAINING = DOCS / "training.md"
EXAMPLES = {  # a word of each; `push_apart` runs in test_own_loss.py, the slow two in test_readme.py
    "README.md": ["make_rollouts"],
    "compare.md": ["MEASURE"],
    "definitions.md": ["first_digit"],
    "reading_figures.md": ["lengths"],
    "report.md": ["write_report"],
    "runs.md": ["pickled"],
    "training.md": ["push_apart", "alignment_metrics", "cached_gradients", "Mine"],
}


def test_every_example_is_known_here():
    found = {
        page.name: re.findall(r"```python\n(.*?)```", text(page), flags=re.DOTALL)
        for page in PAGES
        if not page.name.startswith("tutorial_")
    }
    assert {name: len(blocks) for name, blocks in found.items() if blocks} == {
        name: len(words) for name, words in EXAMPLES.items()
    }
    for name, words in EXAMPLES.items():
        assert all(sum(word in block for block in found[name]) == 1 for word in words), name


@pytest.fixture
def example(tmp_path):
    """Run a page's example that contains a word, and return what it defines."""
    return lambda page, word: SimpleNamespace(**run_example(page, word, tmp_path))


def test_the_loss_in_a_trainer(example, capsys):
    example(TRAINING, "alignment_metrics")
    printed = capsys.readouterr().out
    loss, cc = (float(re.search(rf"{name} (-?[\d.]+)", printed)[1]) for name in ("loss", "CC"))
    assert loss == pytest.approx(1 - cc, abs=2e-3)  # that is what the loss is


def test_the_gradient_cache(example, capsys):
    example(TRAINING, "cached_gradients")  # compares the gradients itself
    assert int(re.search(r"over (\d+) groups", capsys.readouterr().out)[1]) >= 2


def test_an_engine_of_the_readers(example, tmp_path):
    example(TRAINING, "Mine")
    engine = engine_class(f"{tmp_path / 'example.py'}:Mine")
    assert issubclass(engine, TransformersEngine)
    assert not engine.exact_logprobs


def test_a_rollout_format_of_the_readers(example, tmp_path):
    example(DOCS / "runs.md", "pickled")
    file = tmp_path / "theirs.pkl"
    file.write_bytes(pickle.dumps([("1+1?", "2", [r"\boxed{2}", "3"])]))
    found = opened(file, ImportConfig(format=f"{tmp_path / 'example.py'}:pickled"), print)
    assert found.rows["response"].tolist() == [[r"\boxed{2}", "3"]]
    assert {"problem", "gold", "response"} <= found.columns.keys()


def test_an_anchor_of_the_readers(example):
    first_digit = example(DOCS / "definitions.md", "first_digit").first_digit
    response = Response(text="so 12", ends=[2, 3, 5], marker=None, absent="no_marker")
    assert first_digit(response) == 2
    assert first_digit(Response(text="so", ends=[2], marker=None, absent="no_marker")) is None


def test_a_measure_of_the_readers(example, tmp_path):
    example(DOCS / "compare.md", "MEASURE")
    rows = pd.DataFrame(
        {"problem_id": list("aabb"), "rollout_id": list("1234"), "verdict": "correct",
         "answer_class": 0, "gold": list("1122")}
    )  # fmt: skip
    paired = pair_states(rows, *np.random.default_rng(0).normal(size=(2, 4, 8)))
    at = Compared(
        place=Place("final", "marker_end"), sets={"base": paired}, lens=pd.DataFrame(),
        evidence=geometry_evidence([paired], n_boot=100), settings=PlaceSettings(n_boot=100),
    )  # fmt: skip
    [row] = own_rows(f"{tmp_path / 'example.py'}:MEASURE", at)
    assert row["value"] == pytest.approx(np.linalg.norm(paired.rl - paired.base, axis=1).mean())


def test_a_figure_of_the_readers(example):
    rollouts = pd.DataFrame(
        {"verdict": ["correct", "wrong", "wrong"], "response_ids": [[1], [1, 2], [1, 2, 3, 4]]}
    )
    scene = SimpleNamespace(
        rollouts=rollouts, place="final, marker end", source=SimpleNamespace(footnote=str)
    )
    picture = example(DOCS / "reading_figures.md", "lengths").lengths(scene)
    assert picture.data["length"].tolist() == [1, 3]
