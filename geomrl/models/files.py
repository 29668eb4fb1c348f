"""A checkpoint's files, looked at before anything is loaded: what is missing, torn, or no model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from geomrl.errors import GeomrlError

_ADAPTER = "adapter_config.json"


def check_folder(source: str, allow_pickle: bool = False) -> None:
    """Name what is wrong with a model's folder before transformers fails with a long traceback.

    Args:
        source: a folder or hub id; of the latter only what looks like a path is judged.
        allow_pickle: take `.bin` weights.

    Raises:
        GeomrlError: no such folder, an adapter instead of a model, a shard missing or torn.
    """
    folder = Path(source)
    if not folder.is_dir():
        # "name" and "owner/name" are hub ids; anything else can only be meant as a path.
        if folder.exists() or folder.is_absolute() or source.startswith((".", "~")) or (
            len(folder.parts) > 2
        ):  # fmt: skip
            raise GeomrlError(f"{source}: no such folder; check the path of the model")
        return
    if (folder / _ADAPTER).exists():
        raise GeomrlError(_adapter_message(folder))
    if not (folder / "config.json").exists():
        raise GeomrlError(f"{folder}: no config.json; this is not a Hugging Face model folder")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).exists()]
        if missing:
            raise GeomrlError(
                f"{folder}: {len(missing)} of {len(shards)} weight shards are missing "
                f"({', '.join(missing[:3])}); copy or download them again"
            )
    elif not any(folder.glob("*.safetensors")) and not (allow_pickle and any(folder.glob("*.bin"))):
        raise GeomrlError(
            f"{folder}: no safetensors weights; save the model with save_pretrained, or pass "
            "--allow-pickle for .bin weights that you trust"
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass  # the header must fit the file's length
        except SafetensorError as error:
            raise GeomrlError(
                f"{file}: not a whole weight file, so this model cannot be loaded ({error}); copy or "
                "download it again"
            ) from error


def _adapter_message(folder: Path) -> str:
    try:
        base = json.loads((folder / _ADAPTER).read_text()).get("base_model_name_or_path")
    except ValueError:
        base = None
    name = base or "BASE"
    already = (
        " If its weights are merged already, delete adapter_config.json: transformers would load the "
        "base model in their place."
        if (folder / "config.json").exists()
        else ""
    )
    return (
        f"{folder}: this is a LoRA adapter of {base or 'a model that it does not name'}, not a model: "
        "merge it first and name the merged folder. In Python: m = peft.AutoPeftModelForCausalLM."
        f"from_pretrained('{folder}').merge_and_unload(); m.save_pretrained('MERGED'); then save the "
        f"tokenizer of {name} there too.{already}"
    )
