"""Which weights vLLM is to be given: those of the files that transformers reads, and no others."""

import torch
from safetensors.torch import save_file
from tiny import build_model

from geomrl.rollout.engines.checkpoint_shapes import checkpoint_shapes


def shapes_of(model):
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def test_weights_that_lie_twice_in_a_folder_are_counted_once(tmp_path):
    """Mistral's repositories hold the weights once more, in one file and under other names."""
    model = build_model("Mistral")
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    model.save_pretrained(single)
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for folder in (single, sharded):
        other = {"layers.0.attention.wq.weight": torch.zeros(4, 4)}
        save_file(other, folder / "consolidated.safetensors")
        assert checkpoint_shapes(str(folder)) == shapes_of(model)
