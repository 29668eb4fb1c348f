"""What identifies a checkpoint and its tokenizer by content: hashes of all that decides results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from geomrl.errors import GeomrlError
from geomrl.files import file_hash, read_json, text_hash
from geomrl.models.names import resolve_model

# Entries of config.json that decide neither a state nor a logit: what wrote the file, how weights are
# kept (the number format that is computed in is recorded by itself) or were drawn, what a forward
# returns besides, and special tokens, since those that end a response are recorded by themselves.
VOLATILE = frozenset(
    {
        *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures"),
        *("dtype", "torch_dtype", "use_cache", "torchscript", "tokenizer_class", "return_dict"),
        *("return_dict_in_generate", "output_attentions", "output_hidden_states"),
        *("output_router_logits", "gradient_checkpointing", "initializer_range"),
        *("initializer_factor", "id2label", "label2id", "num_labels", "problem_type"),
        *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "auto_map"),
        *("use_bfloat16", "tie_encoder_decoder", "finetuning_task", "task_specific_params"),
    }
)


def model_folder(name: str) -> Path:
    """Return the folder of a checkpoint's files: the user's, or that of the hub's cache.

    Raises:
        OSError: the hub knows no such model, or cannot be reached.
    """
    folder = Path(resolve_model(name))
    return folder if folder.is_dir() else Path(str(cached_file(str(name), "config.json"))).parent


def weights_hash(name: str) -> str:
    """Return a hash of a checkpoint's weight files, in the order of their names."""
    folder = model_folder(name)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return text_hash(*(file_hash(file) for file in files))


def config_hash(name: str) -> str:
    """Return a hash of what in a checkpoint's config.json decides its computations.

    `VOLATILE` entries are left out, at any depth. Of a model that brings code of its own
    (`auto_map`), its Python files are part of it.

    Raises:
        GeomrlError: config.json is missing, or not valid JSON.
    """
    folder = model_folder(name)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise GeomrlError(f"{folder / 'config.json'}: not a JSON object; copy it again")
    code = sorted(folder.glob("*.py")) if "auto_map" in config else []
    return text_hash(json.dumps(_decisive(config), sort_keys=True), *map(file_hash, code))


def _decisive(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {k: _decisive(v) for k, v in entry.items() if k not in VOLATILE}
    return [_decisive(v) for v in entry] if isinstance(entry, list) else entry


def vocabulary_hash(tokenizer: Any) -> str:
    """Return a hash of the token-to-id table: equal hashes mean that ids mean the same."""
    table = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return text_hash(json.dumps(table))


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of how a tokenizer cuts text and joins ids; its vocabulary's where that is unknown.

    Padding and truncation are left out: they are changed by use.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return vocabulary_hash(tokenizer)
    described = json.loads(backend.to_str())
    kept = {k: v for k, v in described.items() if k not in ("padding", "truncation")}
    return text_hash(json.dumps(kept, sort_keys=True))
