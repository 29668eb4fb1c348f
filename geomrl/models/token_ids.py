"""Do token ids say what a text says? They do not where another tokenizer made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError


def check_ids_fit(rows: pd.DataFrame, tokenizer: Any, path: Path, limit: int = 200) -> None:
    """Check that token ids, read by this tokenizer, say the rollouts' text.

    The first `limit` rows are compared, white space aside.

    Raises:
        GeomrlError: an id is outside the vocabulary, or the ids say something else.
    """
    size = len(tokenizer)
    pairs: Sequence[tuple[str, list[int], str]] = list(
        zip(rows["rollout_id"], rows["response_ids"], rows["response"], strict=True)
    )
    for name, ids, text in pairs[:limit]:
        said = (
            tokenizer.decode(list(ids), skip_special_tokens=True)
            if max(ids, default=0) < size
            else ""
        )
        plain = tokenizer.decode(
            tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True
        )
        if "".join(said.split()) != "".join(plain.split()):
            raise GeomrlError(
                f"{path}: the token ids of rollout {name} do not say its text with this model's "
                f"tokenizer ({said[:40]!r} against {plain[:40]!r}): they are another tokenizer's. "
                "Tokenise the text again with --retokenize"
            )
