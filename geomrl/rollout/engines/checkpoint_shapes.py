"""Names and shapes of the weights of a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from transformers.utils import cached_file

from geomrl.errors import GeomrlError
from geomrl.files import read_json
from geomrl.models.names import resolve_model


def checkpoint_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every weight of a checkpoint in safetensors, reading no weight.

    Its files are those that transformers reads: the ones that the index names, or `model.safetensors`.
    Others beside them (Mistral's `consolidated.safetensors`) repeat the weights. Rotary tables, which
    old checkpoints contain, are no weights and are left out.

    Raises:
        GeomrlError: there are none.
    """
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        folder = Path(str(cached_file(model, "config.json"))).parent
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  it is no dictionary
                if ".rotary_emb." not in name:
                    shapes[name] = tuple(weights.get_slice(name).get_shape())
    if not shapes:
        raise GeomrlError(
            f"{model}: no safetensors weights, by whose names weights are pushed to vLLM; save the "
            "model with save_pretrained first"
        )
    return shapes


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.exists() else []
