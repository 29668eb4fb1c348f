"""The bundled reasoner with attention heads that vLLM's CPU kernels know.

They take heads of 32 and more; the reasoner's are of 16. Putting zeros beside its queries, keys and
values gives a model with heads of 32 that computes the same function, so it is as able at arithmetic.
"""

import torch
from transformers import AutoModelForCausalLM

from geomrl.models.loading import load_tokenizer
from geomrl.models.names import checkpoint_path

HEAD, WIDE = 16, 32
# Rotary embedding turns dimension i together with i + half, by theta^(-2i/width): a pair i of the
# narrow head turns as fast as pair 2i of a head that is twice as wide.
PLACES = torch.cat([torch.arange(0, HEAD, 2), WIDE // 2 + torch.arange(0, HEAD, 2)])


def save_widened_reasoner(folder):
    """Save the model and its tokenizer in a folder, and return the folder."""
    narrow = AutoModelForCausalLM.from_pretrained(checkpoint_path(), dtype=torch.float32)
    config = type(narrow.config)(**{**narrow.config.to_dict(), "head_dim": WIDE})
    wide = type(narrow)(config)
    weights = {name: widened(name, weight) for name, weight in narrow.state_dict().items()}
    wide.load_state_dict(weights)
    wide.generation_config = narrow.generation_config
    wide.save_pretrained(folder)
    load_tokenizer("reasoner").save_pretrained(folder)
    return folder


def widened(name, weight):
    if ".self_attn." not in name:
        return weight
    if name.endswith("o_proj.weight"):
        return spread(weight.T).T
    if not name.endswith("norm.weight"):
        return spread(weight)
    # Half of the dimensions are 0 now, which makes a normed query or key sqrt(2) longer; and scores
    # are divided by sqrt(32) instead of sqrt(16).
    scale = 1.0 if "q_norm" in name else 0.5**0.5
    return torch.zeros(WIDE).index_copy(0, PLACES, weight * scale)


def spread(rows):
    """Put each head's rows at their places among twice as many: [heads * 16, n] -> [heads * 32, n]."""
    heads = rows.reshape(-1, HEAD, rows.shape[-1])
    wide = rows.new_zeros(heads.shape[0], WIDE, rows.shape[-1])
    return wide.index_copy(1, PLACES, heads).reshape(-1, rows.shape[-1])
