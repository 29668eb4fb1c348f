"""What decides a run's content is in its key; what does not, is not; older runs resume."""

import numpy as np
import pytest
import torch
from older_stores import write_as_before
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.files import read_json, write_json
from geomrl.models.context import Context
from geomrl.models.loading import load_model
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.steps import read_states
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts, make_rollouts
from geomrl.runs.run import open_run
from geomrl.runs.states import StateStore

CONFIG = RolloutConfig(n=2, chunk=8, sampling=Sampling(max_tokens=6), template="plain")
STATES = ExtractionConfig(layers=("1", "final"), anchors=("marker_end",))


def edit(path, **changes):
    config = read_json(path)
    for name, value in changes.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = value
    write_json(path, config)


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def problems(tmp_path):
    lines = [{"id": f"s{i}", "problem": f"what is {i} + 0?", "answer": str(i)} for i in range(4)]
    return str(write_lines(tmp_path / "sums.jsonl", lines))


def roll(folder, problems, out):
    torch.set_num_threads(1)
    return make_rollouts(str(folder), problems, out, config=CONFIG, show=False)


def imported(folder, tmp_path):
    torch.set_num_threads(1)
    lines = write_lines(tmp_path / "r.jsonl", rollout_lines(n_problems=4))
    config = ImportConfig(keep_labels=True, template="plain")
    import_rollouts(lines, str(folder), tmp_path / "run", config=config, show=False)
    return tmp_path / "run"


def slower_rotation(folder):
    """Multiply rope_theta by 100, as one edits a longer context in."""
    rope = read_json(folder / "config.json")["rope_parameters"]
    rope["rope_theta"] *= 100
    edit(folder / "config.json", rope_parameters=rope)


def test_another_rope_theta_is_another_encoder(folder, tmp_path):
    run = imported(folder, tmp_path)
    read_states(str(folder), run, config=STATES, context=Context(show=False))
    first = open_run(run).states("final", "marker_end")[1]
    slower_rotation(folder)
    read_states(str(folder), run, config=STATES, context=Context(show=False))
    encoders = open_run(run).encoders
    assert len(encoders) == 2
    found = [open_run(run).states("final", "marker_end", key)[1] for key in encoders]
    [second] = [states for states in found if not np.array_equal(states, first)]
    assert np.abs(second - first).max() > 0.1
    assert any(np.array_equal(states, first) for states in found)


def test_another_rope_theta_is_another_policy(folder, problems, tmp_path):
    before = roll(folder, problems, tmp_path / "run").rollouts["policy_hash"]
    slower_rotation(folder)
    with pytest.raises(GeomrlError, match=r"other settings.*policy_hash"):
        roll(folder, problems, tmp_path / "run")
    after = roll(folder, problems, tmp_path / "other").rollouts["policy_hash"]
    assert before.nunique() == after.nunique() == 1
    assert before[0] != after[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "9.9.9", "_name_or_path": "elsewhere"},
        {"torch_dtype": "bfloat16", "dtype": None, "use_cache": False},
        {"architectures": ["Qwen3ForCausalLM"], "pad_token_id": 5, "initializer_range": 0.5},
    ],
)
def test_entries_that_decide_nothing_are_not_in_the_key(folder, changes):
    before = load_model(str(folder)).key
    edit(folder / "config.json", **changes)
    assert load_model(str(folder)).key == before


def test_another_chat_template_is_another_run(folder, problems, tmp_path):
    roll(folder, problems, tmp_path / "run")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}so {{ m.content }}{% endfor %}"
    )
    with pytest.raises(GeomrlError, match=r"other settings.*prompts"):
        roll(folder, problems, tmp_path / "run")


def test_another_end_of_a_response_is_another_run(folder, problems, tmp_path):
    roll(folder, problems, tmp_path / "run")
    edit(folder / "generation_config.json", eos_token_id=[2, 9])
    with pytest.raises(GeomrlError, match=r"other settings.*stop_ids"):
        roll(folder, problems, tmp_path / "run")


def older_manifest(run, loaded):
    """Take out of a manifest what versions that knew a model by its weights alone did not record."""
    manifest = read_json(run / "manifest.json")
    manifest.pop("grading", None)
    settings = manifest["rollouts"]["settings"]
    if "policy_hash" in settings:  # sampled, not imported
        for newer in ("tokenizer", "stop_ids", "prompts"):
            del settings[newer]
        settings["policy_hash"] = loaded.weights
    write_json(run / "manifest.json", manifest)


def older_store(run, loaded):
    """Put a store where such versions had it, without what they did not record; return its folder."""
    old = run / "states" / f"model-{loaded.weights[:8]}"
    (run / "states" / loaded.key).rename(old)
    edit(old / "store.json", encoder_hash=loaded.weights, tokenizer=None, stop_ids=None)
    return old


def test_states_of_an_older_geomrl_are_found_and_gone_on_with(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("geomrl.probe.extraction._SHARD_ROLLOUTS", 8)
    run = imported(folder, tmp_path)
    loaded = load_model(str(folder))
    read_states(loaded, run, config=STATES, context=Context(show=False))
    want = open_run(run).states("final", "marker_end")[1]
    older_manifest(run, loaded)
    old = older_store(run, loaded)
    write_as_before(StateStore(old), range(3))
    for file in old.glob("shard-00001.*"):
        file.unlink()
    kept = {p: p.stat().st_mtime_ns for p in old.glob("shard-*")}
    read_states(str(folder), run, config=STATES, context=Context(show=False))
    assert open_run(run).encoders == [old.name]
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    assert np.array_equal(open_run(run).states("final", "marker_end")[1], want)


def test_rollouts_of_an_older_geomrl_are_gone_on_with(folder, problems, tmp_path):
    whole = roll(folder, problems, tmp_path / "run").rollouts
    loaded = load_model(str(folder))
    older_manifest(tmp_path / "run", loaded)
    again = roll(folder, problems, tmp_path / "run").rollouts
    assert again["response"].tolist() == whole["response"].tolist()
