"""Loading checkpoints: what is missing is named, and nothing runs code unasked."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import save_model
from tiny import character_tokenizer
from transformers import AutoModelForCausalLM

from geomrl.errors import GeomrlError
from geomrl.models.identity import vocabulary_hash
from geomrl.models.loading import load_model, load_tokenizer, short_name


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model")


def test_pickled_weights_are_read_only_when_asked(folder):
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    want = AutoModelForCausalLM.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(GeomrlError, match=r"no safetensors weights.*--allow-pickle"):
        load_model(str(folder))
    got = load_model(str(folder), allow_pickle=True)
    assert torch.equal(got.model.lm_head.weight, want.lm_head.weight)


def test_weights_that_no_file_holds_are_named(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(GeomrlError, match=r"1 weights are in no file .*layers.1.mlp.up_proj"):
        load_model(str(folder))


def test_key_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    one = load_model(str(folder))
    same = load_model(str(save_model(tmp_path / "again" / "model")))
    other = load_model(str(save_model(tmp_path / "other" / "model", seed=1)))
    assert one.key == same.key != other.key
    assert one.key.startswith("model-")


def test_vocabulary_hash_tells_tokenizers_apart():
    one, two = character_tokenizer(["a", "b"]), character_tokenizer(["b", "a"])
    assert vocabulary_hash(one) == vocabulary_hash(character_tokenizer(["a", "b"]))
    assert vocabulary_hash(one) != vocabulary_hash(two)


def test_unknown_names_and_options_are_named(folder, tmp_path):
    with pytest.raises(GeomrlError, match=r"nobody/nothing: this tokenizer cannot be loaded"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(GeomrlError, match="dtype 'float8' is unknown"):
        load_model(str(folder), dtype="float8")
    with pytest.raises(GeomrlError, match=r"no config.json"):
        load_model(str(tmp_path))


def test_dtypes(folder):
    assert load_model(str(folder)).dtype == torch.float32
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16


def test_short_names_are_fit_for_folders():
    assert short_name("Qwen/Qwen3-1.7B") == "Qwen3-1.7B"
    assert short_name("/models/my model!/") == "my-model-"
