"""The headline figures of a run: the same in the summary and in the picture, of one benchmark each."""

import pytest
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.geometry.similarity import headline
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.steps import probe_states
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts
from geomrl.viz.probed import make_pictures

CONFIG = ExtractionConfig(layers=("final",), anchors=("before_marker",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two benchmarks, probed with another seed and fewer draws than by default."""
    folder = tmp_path_factory.mktemp("run")
    model = str(save_model(folder / "model"))
    lines = rollout_lines(n_problems=30)
    lines = [line | {"set": "odd" if int(line["gold"]) % 2 else "even"} for line in lines]
    for number, line in enumerate(lines):
        line["label"] = line["label"] and number % 7 > int(line["gold"]) % 5  # not all alike
    config = ImportConfig(keep_labels=True, template="plain", columns={"benchmark": "set"})
    import_rollouts(
        write_lines(folder / "r.jsonl", lines), model, folder / "run", config=config, show=False
    )
    return probe_states(
        model, folder / "run", config=CONFIG, seed=7, n_boot=150, n_perm=99, show=False
    )


def test_the_picture_shows_the_summarys_pass_at_1(run):
    written = run.summary["benchmarks"]
    pictures = {
        folder: picture
        for folder, picture in make_pictures(run, umap=False)
        if picture.name == "pass_rate"
    }
    assert set(pictures) == set(written) == {"odd", "even"}
    for name, picture in pictures.items():
        row = picture.data.iloc[0]
        drawn = [row[f"mean{end}"] for end in ("", "_low", "_high")]
        wanted = [written[name]["pass@1"][end] for end in ("value", "low", "high")]
        assert drawn == pytest.approx(wanted, abs=1e-6)


def test_a_headline_is_of_one_benchmark(run):
    with pytest.raises(GeomrlError, match=r"2 benchmarks \(even, odd\).*table\['benchmark'\] =="):
        headline(run.similarity)
    table = run.similarity
    assert len(headline(table[table["benchmark"] == "odd"]))
