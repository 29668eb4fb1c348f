"""`geomrl probe` from a checkpoint on disk and foreign rollouts to states, for every architecture."""

import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_runs import rollout_lines, save_model, write_lines
from tiny import ARCHITECTURES
from transformers import AutoModelForCausalLM

from geomrl.errors import GeomrlError
from geomrl.models.context import Context
from geomrl.models.decoder import find_decoder
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ExtractionConfig, token_batches
from geomrl.probe.steps import probe_states, read_states, replace_anchor
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts
from geomrl.runs.run import open_run

FAST = {"n_boot": 100, "n_perm": 99, "show": False}
# Few padded tokens a batch, so that ragged batches of several rollouts occur.
CONFIG = ExtractionConfig(batch_tokens=400)
LABELS = ImportConfig(keep_labels=True, template="plain")


def import_lines(model, out, lines, config=LABELS):
    path = write_lines(out.with_suffix(".jsonl"), lines)
    return import_rollouts(path, str(model), out, config=config, show=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def probed(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    import_lines(model, out, rollout_lines())
    return probe_states(str(model), out, config=CONFIG, **FAST)


@pytest.fixture
def copy(probed, tmp_path):
    shutil.copytree(probed.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_equal_unpadded_forwards_of_a_saved_checkpoint(architecture, tmp_path):
    folder = save_model(tmp_path / "model", architecture)
    import_lines(folder, tmp_path / "run", rollout_lines(n_problems=2))
    run, _ = read_states(str(folder), tmp_path / "run", config=CONFIG, context=Context(show=False))
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    norm = plain.get_submodule(find_decoder(plain).norm)
    rollouts = run.rollouts.set_index("rollout_id")
    for anchor in ("fraction:0.5", "before_marker", "marker_end", "response_last"):
        by_layer = {layer: run.states(layer, anchor) for layer in run.layers}
        rows = by_layer["final"][0]
        assert len(rows) == (12 if anchor == "response_last" else 11)  # one has no answer
        for r, row in rows.iterrows():
            sequence = rollouts.loc[row["rollout_id"]]
            ids = torch.tensor([[*sequence["prompt_ids"], *sequence["response_ids"]]])
            position = len(sequence["prompt_ids"]) + row["token_index"]
            with torch.no_grad():
                out = plain(ids, output_hidden_states=True)
                scores = out.logits[0, position].log_softmax(-1)
                for layer, hidden in zip(["0", "1", "2", "final"], out.hidden_states, strict=True):
                    assert_close(by_layer[layer][1][r], hidden[0, position])
                assert_close(
                    norm(torch.from_numpy(by_layer["3"][1][r])).numpy(), hidden[0, position]
                )
            if position + 1 < ids.shape[1]:
                assert row["next_token_id"] == ids[0, position + 1]
                np.testing.assert_allclose(
                    row["next_logprob"], scores[row["next_token_id"]], atol=1e-4
                )
            entropy = -(scores.exp() * scores).sum()
            np.testing.assert_allclose(row["entropy"], entropy, atol=1e-4)


def assert_close(got, want):
    want = want.numpy()
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_rows_carry_labels_and_every_absence_a_reason(probed):
    rows, states = probed.states(layer=2, anchor="before_marker")
    assert states.dtype == np.float32
    assert states.shape == (23, 32)
    assert (rows["verdict"] == "correct").sum() == 12
    assert rows["answer_class"].notna().all()
    everything = probed.store().rows()
    lacking = everything[everything["token_index"].isna()]
    assert lacking["reason"].notna().all()
    assert set(lacking["rollout_id"]) >= {probed.rollouts["rollout_id"][5]}
    assert probed.summary["absent_anchors"]["before_marker"] == {"no_closed_marker": 1}


def test_coinciding_anchors_are_stored_once_and_layers_read_alone(probed):
    rows = probed.store().rows().dropna(subset=["token_index"])
    with safe_open(probed.store().path / "shard-00000.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(probed.layers)
        stored = file.get_slice("1").get_shape()[0]
    assert stored == rows.groupby("rollout_id")["token_index"].nunique().sum() < len(rows)


def test_the_same_command_again_makes_nothing_new(probed, model):
    before = {p: p.stat().st_mtime_ns for p in probed.path.rglob("shard-*")}
    probe_states(str(model), probed.path, config=CONFIG, **FAST)
    assert before == {p: p.stat().st_mtime_ns for p in probed.path.rglob("shard-*")}


def test_lost_shard_is_made_again_bitwise_equal(copy, model):
    [shard] = copy.glob("states/*/shard-00000.safetensors")
    want = shard.read_bytes()
    shard.unlink()
    with pytest.raises(GeomrlError, match=r"1 of 1 shards are missing.*again"):
        open_run(copy).states()
    probe_states(str(model), copy, config=CONFIG, **FAST)
    assert shard.read_bytes() == want


def test_torn_shard_is_named(copy):
    [shard] = copy.glob("states/*/shard-00000.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(GeomrlError, match=r"shard-00000.safetensors: torn.*delete it"):
        open_run(copy).states()


def test_torn_rows_and_rollouts_are_named(copy):
    [rows] = copy.glob("states/*/shard-00000.parquet")
    rows.write_bytes(rows.read_bytes()[:100])
    with pytest.raises(GeomrlError, match=r"shard-00000.parquet: not a whole parquet"):
        open_run(copy).states()
    (copy / "rollouts.parquet").write_bytes(b"")
    with pytest.raises(GeomrlError, match=r"rollouts.parquet: the file is empty"):
        _ = open_run(copy).rollouts


def test_unknown_layer_anchor_encoder_and_folder_are_named(probed, tmp_path):
    with pytest.raises(GeomrlError, match=r"layer '7' is not stored; it has 0, 1, 2, 3, final"):
        probed.states(layer=7)
    with pytest.raises(GeomrlError, match="anchor 'think_end' is not stored"):
        probed.states(anchor="think_end")
    with pytest.raises(GeomrlError, match="no states of encoder 'other'"):
        probed.states(encoder="other")
    with pytest.raises(GeomrlError, match="not a run directory"):
        open_run(tmp_path)


def test_other_settings_are_refused(copy, model):
    with pytest.raises(GeomrlError, match=r"other settings.*anchors"):
        probe_states(str(model), copy, config=ExtractionConfig(anchors=("marker_end",)), **FAST)


def test_two_processes_make_the_store_of_one(copy, model):
    [store] = copy.glob("states/*")
    want = {p.name: p.read_bytes() for p in store.glob("shard-*")}
    for path in store.glob("shard-*"):
        path.unlink()
    two = Context(ModelOptions(devices="cpu,cpu"), show=False)
    read_states(str(model), copy, config=CONFIG, context=two)
    assert want == {p.name: p.read_bytes() for p in store.glob("shard-*")}


def test_model_with_nan_states_is_named(tmp_path):
    folder = save_model(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder)
    broken.model.layers[1].mlp.down_proj.weight.data.fill_(torch.nan)
    broken.save_pretrained(folder)
    import_lines(folder, tmp_path / "run", rollout_lines())
    with pytest.raises(GeomrlError, match=r"layer 2, response token \d+ of rollout .*not finite"):
        probe_states(str(folder), tmp_path / "run", config=CONFIG, **FAST)


def test_another_vocabulary_is_refused_and_cured(probed, tmp_path):
    other = save_model(tmp_path / "other", vocab_size=200)
    from tiny import byte_level_tokenizer

    byte_level_tokenizer(vocab_size=262).save_pretrained(other)
    with pytest.raises(GeomrlError, match=r"another vocabulary.*--retokenize"):
        probe_states(str(other), probed.path, config=CONFIG, **FAST)


def test_encoder_other_than_the_policy_stands_beside_it(copy, tmp_path):
    other = save_model(tmp_path / "other", seed=5)
    run = probe_states(str(other), copy, config=CONFIG, **FAST)
    assert len(run.encoders) == 2
    assert set(run.similarity["encoder"]) == set(run.encoders)
    with pytest.raises(GeomrlError, match="which encoder"):
        run.states()
    one, two = (open_run(copy, encoder=name).states()[1] for name in run.encoders)
    assert not np.allclose(one, two)


def test_replacement_does_what_a_plain_hook_does(probed, model):
    table = replace_anchor(
        str(model),
        probed.path,
        anchor="before_marker",
        layers=["1", "final"],
        show=False,
        n_boot=100,
    )
    assert set(table["arm"]) == {"correct_mean", "random_residual", "other_mean"}
    assert set(table["verdict"]) == {"correct", "wrong"}
    each = probed.__class__(probed.path).path / "replacement_rollouts.parquet"
    assert each.exists()
    from geomrl.files import read_parquet

    changes = read_parquet(each)
    row = changes[(changes["layer"] == "1") & (changes["arm"] == "correct_mean")].iloc[0]
    rollouts = probed.rollouts.set_index("rollout_id")
    chosen = rollouts.loc[row["rollout_id"]]
    rows, states = probed.states("1", "before_marker")
    group = (rows["problem_id"] == chosen["problem_id"]) & (rows["verdict"] == "correct")
    mean = torch.from_numpy(states[group.to_numpy()].mean(0))
    index = int(rows.loc[rows["rollout_id"] == row["rollout_id"], "token_index"].iloc[0])
    position = len(chosen["prompt_ids"]) + index
    text = chosen["response"]
    start = len(chosen["prompt_ids"]) + text.index("\\boxed{") + len("\\boxed{")
    answer = range(start, start + len(chosen["answer"]))
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    ids = torch.tensor([[*chosen["prompt_ids"], *chosen["response_ids"]]])

    def score():
        with torch.no_grad():
            scores = plain(ids).logits[0].log_softmax(-1)
        return sum(scores[p - 1, ids[0, p]].item() for p in answer)

    def put(module, args, output):
        output[0, position] = mean
        return output

    before = score()
    plain.get_submodule(find_decoder(plain).layers)[0].register_forward_hook(put)
    np.testing.assert_allclose(row["change"], score() - before, atol=1e-4)


def test_token_batches_cover_everything_within_the_budget():
    lengths = [5, 100, 7, 7, 30, 1, 60]
    batches = token_batches(lengths, 60)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60


def test_marker_in_the_prompt_changes_nothing(model, tmp_path):
    plain = rollout_lines(n_problems=2)
    boxed = [line | {"question": line["question"] + " thus \\boxed{9}"} for line in plain]
    found = {}
    for name, lines in (("plain", plain), ("boxed", boxed)):
        import_lines(model, tmp_path / name, lines, ImportConfig(template="plain"))
        run = probe_states(str(model), tmp_path / name, config=CONFIG, **FAST)
        keys = ["anchor", "token_index", "flags", "reason"]
        found[name] = run.store().rows()[keys], run.rollouts["verdict"].tolist()
    assert found["plain"][0].equals(found["boxed"][0])
    assert found["plain"][1] == found["boxed"][1]
