"""What is read of a model is the model's own, in architectures unlike Llama; else it is refused."""

import string

import pandas as pd
import pytest
import torch
from tiny import VOCABULARY, build_model, character_tokenizer
from typer.testing import CliRunner
from zoo import zoo_model

from geomrl.cli.app import app
from geomrl.compare.config import CompareConfig
from geomrl.compare.run import compare_models
from geomrl.errors import GeomrlError
from geomrl.models.decoder import score_next
from geomrl.models.loading import LoadedModel, load_model
from geomrl.models.options import ModelOptions
from geomrl.probe.extraction import ExtractionConfig, ModelProbe
from geomrl.probe.extractor import Extractor, Rows, Write
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.verify.marker import BOXED, parse_marker

READ = ("falcon", "gpt_neo", "jamba", "nanochat", "falcon_h1", "recurrent_gemma", "gemma3")
ROWS = Rows(torch.tensor([0, 1, 2]), torch.tensor([6, 17, 1]))


def loaded_model(model, name="tiny"):
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=character_tokenizer(),
        device=torch.device("cpu"),
        dtype=model.dtype,
        weights="",
        vocabulary="",
    )


def sequences(lengths=(7, 18, 2)):
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(10, VOCABULARY, (n,), generator=draw) for n in lengths]


@torch.no_grad()
def plain_states(model, ids):
    """Every layer's states of one sequence, and its logits, without padding, extractor or head."""
    output = model(input_ids=ids[None], use_cache=False, output_hidden_states=True)
    return [state[0] for state in output.hidden_states], output.logits[0]


@pytest.mark.parametrize("kind", READ)
def test_states_and_logits_are_the_model_s_own(kind):
    model = zoo_model(kind, head=20.0)
    extractor = Extractor(model.base_model)
    rows = sequences()
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    targets = torch.tensor([20, 30, 40])
    with torch.no_grad():
        names = extractor.layer_names
        states = extractor.read({"input_ids": ids, "use_cache": False}, ROWS, names).states
        logprobs, _ = score_next(model, states["final"], targets)
    for row, (i, position) in enumerate(zip(ROWS.sequence, ROWS.position, strict=True)):
        hidden, logits = plain_states(model, rows[i])
        assert len(hidden) == len(names) - 1  # transformers keeps no state before the final norm
        for name, whole in zip([*names[:-2], "final"], hidden, strict=True):
            assert (states[name][row] - whole[position]).norm() < 1e-4 * whole[position].norm()
        wanted = logits[position].log_softmax(-1)[targets[row]]
        assert logprobs[row] == pytest.approx(float(wanted), abs=1e-3), kind
    probe = ModelProbe(loaded_model(model))
    assert probe.layers(None) == names


@pytest.mark.parametrize("kind", ["falcon", "nanochat"])
@pytest.mark.parametrize("layer", ["1", "final"])
def test_what_is_written_replaces_the_state(kind, layer):
    model = zoo_model(kind)
    extractor = Extractor(model)
    ids = torch.nn.utils.rnn.pad_sequence(sequences(), batch_first=True)
    inputs = {"input_ids": ids, "use_cache": False}
    values = torch.randn(3, 32)
    with torch.no_grad():
        plain = extractor.read(inputs, ROWS, [layer, "final"])
        written = extractor.read(inputs, ROWS, [layer, "final"], Write(layer, ROWS, values))
    assert torch.equal(written.states[layer], values)
    assert not torch.allclose(written.states["final"], plain.states["final"])
    changed = (written.output.logits != plain.output.logits).any(-1)
    assert changed[ROWS.sequence, ROWS.position].all()
    assert not changed[0, :6].any()


def test_layers_of_several_streams_are_refused_before_anything_is_sampled(tmp_path):
    """Gemma 3n's layers carry four states a token; its final state is one."""
    model, out = tmp_path / "model", tmp_path / "run"
    zoo_model("gemma3n_text").save_pretrained(model)
    character_tokenizer().save_pretrained(model)
    result = CliRunner().invoke(
        app, ["probe", str(model), "--problems", "arithmetic", "--limit", "2", "--out", str(out)]
    )
    assert result.exit_code == 1
    assert "layer 0 cannot be read" in result.output
    assert "[4, 3, 13, 32]" in result.output
    assert not (out / "rollouts.parquet").exists()
    probe = ModelProbe(loaded_model(zoo_model("gemma3n_text")))
    assert probe.layers(["final"]) == ("final",)


def scales_its_logits(model):
    """Behind the head, and only where it runs on whole sequences, as a model's own forward does."""
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, out: out * 1.01 if out.dim() == 3 else None)


def is_noisy(model):
    draw = torch.Generator().manual_seed(0)
    model.model.layers[1].mlp.register_forward_hook(
        lambda _, args, out: out + 1e-2 * torch.randn(out.shape, generator=draw)
    )


def looks_ahead(model):
    model.model.layers[1].mlp.register_forward_hook(
        lambda _, args, out: out + 0.1 * out.mean(1, keepdim=True)
    )


def runs_backwards(model):
    layers = model.model.layers
    layers.__class__ = type("Backwards", (torch.nn.ModuleList,), {"__getitem__": reversed_slice})


def reversed_slice(self, index):
    found = list(self.children())
    return found[index][::-1] if isinstance(index, slice) else found[index]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scales_its_logits, "LM head on a 'final' state does not give the model's own logits"),
        (is_noisy, "differ from those of a plain forward of the same rows"),
        (looks_ahead, "states change when it is padded on the right"),
        (runs_backwards, "layer 0 cannot be read: its 3 layers do not run once each and in order"),
    ],
)
def test_a_model_that_disagrees_with_itself_is_refused(change, words):
    model = build_model("Qwen3")
    ModelProbe(loaded_model(model)).layers(None)
    change(model)
    with pytest.raises(GeomrlError, match=words) as error:
        ModelProbe(loaded_model(model, "odd")).layers(None)
    assert str(error.value).startswith("odd")


def test_models_with_a_text_and_a_vision_part_are_compared(tmp_path):
    """Gemma 3's configuration keeps width, depth and positions in its text part."""
    characters = [*string.printable[:96], *(chr(0x4E00 + i) for i in range(60))]
    tokenizer = character_tokenizer(characters)
    assert len(tokenizer) == VOCABULARY  # all that a random model may sample
    names = [str(tmp_path / f"model-{seed}") for seed in (0, 1)]
    for seed, name in enumerate(names):
        zoo_model("gemma3", seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    assert load_model(names[0], device="cpu").max_length == 512
    found = compare_models(
        *names, "arithmetic", tmp_path / "out", limit=3,
        rollouts=RolloutConfig(n=2, sampling=Sampling(max_tokens=6)),
        extraction=ExtractionConfig(layers=("final",), anchors=("response_last",)),
        config=CompareConfig(anchor="response_last", probe_anchors=(), n_boot=100),
        options=ModelOptions("cpu"), show=False,
    )  # fmt: skip
    assert list(found.verdicts) == ["model-1"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_disagreement(dtype):
    for kind in ("Qwen3", "Gemma", "GPT2"):
        ModelProbe(loaded_model(build_model(kind).to(dtype)))


def phi3_folder(folder):
    zoo_model("phi3").save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return str(folder)


def test_no_state_depends_on_how_long_its_neighbours_are():
    """Phi-3's LongRoPE turns all tokens otherwise as soon as one row of a batch is longer than 16."""
    probe = ModelProbe(loaded_model(zoo_model("phi3")))
    draw = torch.Generator().manual_seed(0)
    table = pd.DataFrame(
        {
            "rollout_id": [str(n) for n in (6, 12, 30)],
            "prompt_ids": [[11, 12, 13]] * 3,
            "response_ids": [torch.randint(10, 40, (n,), generator=draw).tolist() for n in (6, 12, 30)],
            "answer": None,
        }
    )  # fmt: skip
    located = probe.locate(table, parse_marker(BOXED), ["response_last"])
    rows, states = probe.read(located, ["1", "final"], 10_000)
    start = 0
    for item in located:
        _, alone = probe.read([item], ["1", "final"], 10_000)
        for layer, wanted in alone.items():
            found = states[layer][start : start + len(wanted)]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        start += len(wanted)
    absent = rows[rows["token_index"].isna()]
    assert list(absent["rollout_id"]) == ["30"]
    assert list(absent["reason"]) == ["beyond_the_steady_length"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["rollout", "MODEL", "--problems", "arithmetic", "--limit", "2"], "but beyond 16"),
        (["train", "configs/smoke.yaml", "--set", "model.name=MODEL", "--dry-run"], "but beyond 16"),
    ],
)  # fmt: skip
def test_lengths_beyond_the_steady_one_are_refused(tmp_path, command, words):
    model = phi3_folder(tmp_path / "model")
    command = [part.replace("MODEL", model) for part in command]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "run" / "rollouts.parquet").exists()
