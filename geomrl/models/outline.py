"""What a model's files say of it before its weights are loaded, so that work on others is not lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from geomrl.errors import GeomrlError
from geomrl.models.files import check_folder
from geomrl.models.identity import vocabulary_hash
from geomrl.models.loading import load_message, load_tokenizer
from geomrl.models.names import resolve_model


@dataclass(frozen=True)
class Outline:
    """What files say of a model: vocabulary, width and depth (None where config.json does not)."""

    name: str
    vocabulary: str
    hidden_size: int | None
    n_layers: int | None


def outline(name: str, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> Outline:
    """Return what a model's configuration and tokenizer say; no weight is loaded.

    Args:
        name: as `load_model` takes it.
        trust_remote_code: read configuration and tokenizer with code that the checkpoint brings.
        allow_pickle: take `.bin` weights.

    Raises:
        GeomrlError: there is no such model, a file of it is missing or torn, or it is an adapter.
    """
    source = resolve_model(name)
    check_folder(source, allow_pickle)
    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise GeomrlError(load_message("model", name, error)) from error
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    sizes = (getattr(text, key, None) for key in ("hidden_size", "num_hidden_layers"))
    return Outline(name, vocabulary_hash(tokenizer), *sizes)


def check_one_architecture(outlines: Sequence[Outline]) -> None:
    """Refuse models whose states cannot be compared with the first one's.

    Raises:
        GeomrlError: another vocabulary, width or depth.
    """
    first = outlines[0]
    for other in outlines[1:]:
        if other.vocabulary != first.vocabulary:
            raise GeomrlError(
                f"{other.name}: another vocabulary than {first.name}'s, so a token of one is not that "
                "of the other; compare checkpoints of one architecture and tokenizer"
            )
        for what, here, there in (
            ("width", other.hidden_size, first.hidden_size),
            ("depth", other.n_layers, first.n_layers),
        ):
            if here != there:
                raise GeomrlError(
                    f"{other.name}: another {what} than {first.name}'s ({here} against {there}); "
                    "compare checkpoints of one architecture"
                )
