"""Where the assistant's turn ends: the tokens that end it, and a text cut at the first of them."""

from __future__ import annotations

import re
from typing import Any

import jinja2

# Texts of these are an end of turn whatever tokenizer reads them; others may be markup (`</s>`) or
# end a part of a turn (`<|end|>`).
USUAL_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>")
_STARTS = ("<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "<start_of_turn>", "<bos>")
_ANSWER = "an answer"


def end_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end-of-sequence ids of a generation config (or None) and of a tokenizer."""
    configured = getattr(generation, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def turn_end_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a turn: those of a generation config (or None) and of a tokenizer.

    Of the tokenizer these are its end of sequence and what its chat template writes behind an
    answer: a base model's tokenizer often has that in the template alone.
    """
    closing = _template_end(tokenizer)
    ids = [] if closing is None else [tokenizer.convert_tokens_to_ids(closing)]
    return end_ids(generation, tokenizer) | frozenset(ids)


def turn_ends(tokenizer: Any = None) -> tuple[str, ...]:
    """Return the texts of tokens that end a turn: the usual ones, and a tokenizer's own."""
    own = [] if tokenizer is None else [tokenizer.eos_token, _template_end(tokenizer)]
    return tuple(dict.fromkeys([*USUAL_ENDS, *(str(end) for end in own if end)]))


def first_turn(text: str, ends: tuple[str, ...]) -> str:
    r"""Return a response's text up to its first token that ends a turn, that token included.

    What comes after it (padding, or the next turn of a whole conversation) is no part of the
    response, and an answer there is not the policy's. A text that begins with a turn of its own, as one
    that contains its prompt does, is left whole.

    >>> first_turn("It is 5.<|im_end|>\n<|im_start|>user\nSure?", USUAL_ENDS)
    'It is 5.<|im_end|>'
    """
    found = re.search("|".join(map(re.escape, ends)), text)
    if found is None or text.lstrip().startswith(_STARTS):
        return text
    return text[: found.end()]


def _template_end(tokenizer: Any) -> str | None:
    """Return the token that the chat template writes behind an answer; None where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    chat = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    except jinja2.TemplateError:  # a template may refuse what it was not written for
        return None
    behind = rendered.rpartition(_ANSWER)[2].lstrip()
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return max((token for token in special if behind.startswith(token)), key=len, default=None)
