"""The bytes that each token id adds to a text, for any tokenizer.

`decode` cannot give them: a token that ends inside a character decodes to U+FFFD, and a run of byte
tokens decodes all at once. So byte tokens are recognised by how the tokenizer's decoder is built
(byte-level alphabet; `<0xNN>` byte fallback), and every other token is read as what it adds to the
text of a token before it.
"""

from __future__ import annotations

import json
import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes(dict[int, bytes]):
    """A map from token id to the bytes it stands for inside a text, filled as it is asked."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._added = {
            int(i): str(getattr(token, "content", token))
            for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        decoders = _decoder_types(tokenizer)
        self._byte_level = "ByteLevel" in decoders
        self._byte_fallback = "ByteFallback" in decoders or not decoders
        self._before = self._find_sentinel()

    def __missing__(self, token_id: int) -> bytes:
        """Read a token for the first time."""
        found = self[token_id] = self._read(int(token_id))
        return found

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""  # a padded vocabulary has ids without a token; they decode to nothing
        if self._byte_level:
            return b"".join(
                bytes([BYTE_ALPHABET[c]]) if c in BYTE_ALPHABET else c.encode() for c in token
            )
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        before, both = self._decode([self._before]), self._decode([self._before, token_id])
        return (both.removeprefix(before) if both.startswith(before) else token).encode()

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _find_sentinel(self) -> int:
        """Return the id of a plain token to stand before others: decoders treat the first apart."""
        vocabulary = self._tokenizer.get_vocab()
        plain = [i for token, i in vocabulary.items() if i not in self._added and token.isalnum()]
        return min(plain, default=min(vocabulary.values()))


def _decoder_types(tokenizer: Any) -> set[str]:
    """Return the names of a fast tokenizer's decoder steps; none for other tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return set()
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return {step["type"] for step in [decoder, *decoder.get("decoders", [])] if "type" in step}


def _byte_alphabet() -> dict[str, int]:
    """Return the printable character that byte-level BPE writes for each byte, reversed.

    GPT-2's map (Radford et al. 2019): printable bytes stand for themselves, the others for the
    characters from U+0100 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


BYTE_ALPHABET = _byte_alphabet()
