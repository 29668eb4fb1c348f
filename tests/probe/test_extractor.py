"""The extractor against plain forwards and plain hooks, for every architecture."""

import pytest
import torch
from hooked import hooked_states
from tiny import ARCHITECTURES, VOCABULARY, build_model

from geomrl.errors import GeomrlError
from geomrl.models.decoder import find_decoder, layer_name, score_next
from geomrl.probe.extractor import Extractor, Rows, Write


def ragged_batch(lengths=(5, 19, 1, 12), seed=1):
    """Sequences of different length, padded on the right, and two rows in each."""
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    pairs = [(i, p) for i, n in enumerate(lengths) for p in {n - 1, n // 2}]
    sequence, position = (torch.tensor(x) for x in zip(*pairs, strict=True))
    return sequences, ids, Rows(sequence, position)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_equal_an_unpadded_single_forward(architecture):
    model = build_model(architecture)
    extractor = Extractor(model.base_model)
    sequences, ids, rows = ragged_batch()
    with torch.no_grad():
        states = extractor.read({"input_ids": ids}, rows, extractor.layer_names).states
    assert list(states) == ["0", "1", "2", "3", "final"]
    norm = model.get_submodule(find_decoder(model).norm)
    for row, (i, position) in enumerate(zip(rows.sequence, rows.position, strict=True)):
        with torch.no_grad():
            hidden = model(sequences[i][None], output_hidden_states=True).hidden_states
        expected = dict(zip(["0", "1", "2", "final"], hidden, strict=True))
        # transformers' tuple has no pre-norm last layer: a plain hook reads it.
        expected["3"] = hooked_states(model, sequences[i][None])["3"]
        for name, value in expected.items():
            want = value[0, position]
            error = (states[name][row] - want).abs().max() / want.abs().max()
            assert error < 1e-5, (architecture, name, row)
        torch.testing.assert_close(norm(states["3"][row]), states["final"][row])


@pytest.mark.parametrize("architecture", ["Qwen3", "GPT2"])
def test_gradients_equal_plain_hooks_exactly(architecture):
    model = build_model(architecture)
    _, ids, rows = ragged_batch()

    def gradients(states):
        model.zero_grad()
        sum((k + 1) * (s**2).mean() for k, s in enumerate(states)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    twin = hooked_states(model, ids, rows, keep_graph=True)
    want = gradients([twin[name] for name in ("0", "2", "final")])
    read = Extractor(model).read({"input_ids": ids, "use_cache": False}, rows, ["0", 2, "final"])
    got = gradients(read.states.values())
    assert len(got) == len(want) > 10
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_call_runs_in_place_of_the_module():
    """A wrapper around the module (an engine) is what runs, and its output is what comes back."""
    model = build_model()
    _, ids, rows = ragged_batch()
    calls = []

    def engine(**inputs):
        calls.append(1)
        return model(**inputs).logits.sum()

    with torch.no_grad():
        reading = Extractor(model, call=engine).read({"input_ids": ids}, rows, ["final"])
        plain = Extractor(model).read({"input_ids": ids}, rows, ["final"])
    assert calls == [1]
    assert torch.equal(reading.states["final"], plain.states["final"])


@pytest.mark.parametrize("architecture", ["Qwen3", "GPT2", "Gemma"])
@pytest.mark.parametrize("layer", ["0", "1", "3", "final"])
def test_write_replaces_what_follows_sees(architecture, layer):
    model = build_model(architecture)
    extractor = Extractor(model)
    _, ids, rows = ragged_batch()
    values = torch.randn(len(rows.position), 32)
    inputs = {"input_ids": ids, "use_cache": False}
    with torch.no_grad():
        plain = extractor.read(inputs, rows, extractor.layer_names)
        written = extractor.read(inputs, rows, extractor.layer_names, Write(layer, rows, values))
        same = extractor.read(
            inputs, rows, extractor.layer_names, Write(layer, rows, plain.states[layer])
        )
    names = extractor.layer_names
    at = names.index(layer)
    assert torch.equal(written.states[layer], values)
    for name in names[:at]:
        assert torch.equal(written.states[name], plain.states[name])
    for name in names[at + 1 :]:
        assert not torch.allclose(written.states[name], plain.states[name])
    assert torch.equal(same.output.logits, plain.output.logits)
    # Only the written positions and those behind them, in their own sequence, may change.
    changed = (written.output.logits != plain.output.logits).any(-1)  # [sequences, time]
    for i in range(ids.shape[0]):
        first = rows.position[rows.sequence == i].min()
        assert not changed[i, :first].any()
        assert changed[i, first]


def test_head_on_rows_equals_the_whole_model():
    model = build_model("Qwen3")
    _, ids, rows = ragged_batch()
    with torch.no_grad():
        final = (
            Extractor(model.base_model).read({"input_ids": ids}, rows, ["final"]).states["final"]
        )
        targets = torch.arange(len(final)) + 5
        logprob, entropy = score_next(model, final, targets, chunk=3)
        logits = model(ids).logits[rows.sequence, rows.position]
    want = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(logprob, want.log_prob(targets))
    torch.testing.assert_close(entropy, want.entropy())


def test_unknown_layer_and_unknown_model_are_named():
    assert layer_name(-1, 3) == "3"
    assert layer_name(-4, 3) == "0"
    for bad in ("4", "last", -5):
        with pytest.raises(GeomrlError, match=str(bad)):
            layer_name(bad, 3)
    with pytest.raises(GeomrlError, match="Linear"):
        find_decoder(torch.nn.Linear(2, 2))
