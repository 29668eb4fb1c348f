"""Tiny random models of architectures that differ from Llama in the ways that mislead a reader."""

import torch
from tiny import COMMON, VOCABULARY
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

_MAMBA = {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_head": 8, "mamba_n_heads": 8}
SPECS = {
    # Layers that return a tuple.
    "falcon": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "gpt_neo": {"num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]]},
    # Layers of two classes, in one list.
    "jamba": {
        "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 4, "expert_layer_offset": 3, "num_experts": 2,
        "mamba_dt_rank": 4, "mamba_d_state": 8, "use_mamba_kernels": False,
    },
    # A norm that runs on the embedding too.
    "nanochat": {"num_key_value_heads": 4},
    # Logits that are changed behind the head.
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.1},
    "recurrent_gemma": {"num_key_value_heads": 1, "lru_width": 32, "logits_soft_cap": 1.0},
    "modernbert-decoder": {"cls_token_id": 1, "sep_token_id": 2},
    # Noise under names of its own.
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.1},
    "starcoder2": {"residual_dropout": 0.1, "embedding_dropout": 0.1},
    "phimoe": {"num_local_experts": 4},
    # Frequencies that change with the sequence's length.
    "phi3": {
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4, "original_max_position_embeddings": 16,
        },
    },
    "llama": {},
    # Layers that carry four streams.
    "gemma3n_text": {
        "num_hidden_layers": 2, "head_dim": 8, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
        "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"], "intermediate_size": [64] * 2,
        "activation_sparsity_pattern": [0.0] * 2,
    },
}  # fmt: skip


def zoo_model(kind, seed=0, head=1.0, **overrides):
    """A model of a kind, in fp32 and eval mode; `head` enlarges its logits, so that caps bite."""
    if kind == "gemma3":  # a configuration of a text and a vision model
        text = {**COMMON, "head_dim": 8, "num_hidden_layers": 2}
        vision = {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        }  # fmt: skip
        config = CONFIG_MAPPING[kind](
            text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=9
        )
    else:
        config = CONFIG_MAPPING[kind](**{**COMMON, **SPECS[kind], **overrides})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and name.endswith(("_proj.weight", "embed_tokens.weight")):
                weight.normal_(std=0.2)
        model.get_output_embeddings().weight.mul_(head)
    return model.eval()
