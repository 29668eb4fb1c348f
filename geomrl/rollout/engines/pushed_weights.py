"""Weights on their way into an engine that knows them by the names of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from geomrl.errors import GeomrlError

HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


def checked_weights(
    named: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    seen: set[str],
    *,
    tied: bool,
    model: str,
) -> Iterator[tuple[str, Tensor]]:
    """Yield copies of the weights, and the head of a tied model even where it is left out.

    Args:
        named: the weights that are pushed.
        shapes: those of the checkpoint, by name.
        seen: gets the names that were yielded.
        tied: whether the head is the embedding.
        model: the checkpoint's name, for messages.

    Raises:
        GeomrlError: a name or shape is not the checkpoint's.
    """
    embedding: Tensor | None = None
    for name, tensor in named:
        want = shapes.get(name)
        if name == HEAD and tied:
            want = tuple(tensor.shape)
        if want != tuple(tensor.shape):
            expected = "no weight" if want is None else f"a weight {list(want)}"
            raise GeomrlError(
                f"{name}, {list(tensor.shape)}: the checkpoint {model} has {expected} of that "
                "name; push the weights under the checkpoint's own names"
            )
        copy = tensor.detach().clone()
        if tied and name.endswith(_EMBEDDINGS):
            embedding = copy
        seen.add(name)
        yield name, copy
    if tied and HEAD not in seen:
        if embedding is None:
            raise GeomrlError(
                f"{model} ties its head to an embedding of an unusual name; push {HEAD} too"
            )
        # Where the head was packed for the CPU it is a copy, which would stay the old one.
        seen.add(HEAD)
        yield HEAD, embedding
