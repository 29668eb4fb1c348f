"""Chats in files of other tools: recognised in every form in which they are stored."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.problems.nested import plain

Chat = list[dict[str, Any]]
"""Messages, each with "role" and "content"."""

_APART = ("reasoning_content", "reasoning", "thinking", "reasoning_trace")
_THOUGHT = ("reasoning", "thinking")  # types of parts, and where their text is
THINK = "<think>"
_END = "</think>"


def as_chat(value: Any) -> Chat | None:
    """Return the messages that a cell contains, and None where it contains something else.

    A chat is a list of messages, one message, either of them printed as JSON or as Python writes it,
    or any of these in a list of its own (as lm-eval nests them).

    >>> as_chat('[{"role": "user", "content": "1+1?"}]')
    [{'role': 'user', 'content': '1+1?'}]
    >>> as_chat("[1, 2]") is None
    True
    """
    value = plain(value)
    if isinstance(value, str):
        return as_chat(_printed(value))
    if isinstance(value, Mapping):
        value = [dict(value)]
    if not isinstance(value, list) or not value:
        return None
    if len(value) == 1 and isinstance(value[0], str | list):
        return as_chat(value[0])
    return value if all(map(_is_message, value)) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value


def _printed(text: str) -> Any:
    """Return the list or object that a text prints; None where it prints none with roles."""
    inner = text.strip()
    if not inner.startswith(("[", "{")) or not ('"role"' in inner or "'role'" in inner):
        return None
    try:
        return json.loads(inner)
    except (ValueError, RecursionError):
        pass  # not JSON: perhaps as Python prints it
    try:
        return ast.literal_eval(inner)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def ends_with_answer(chat: Chat) -> bool:
    """Say whether the last turn is the assistant's."""
    return chat[-1]["role"] == "assistant"


def content_text(message: Mapping[str, Any]) -> str:
    """Return a message's text; its parts joined where it has several, without reasoning."""
    content = message["content"]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        return "".join(part.get("text") or "" for part in parts if part.get("type") not in _THOUGHT)
    return "" if content is None else str(content)


def reasoning_apart(message: Mapping[str, Any]) -> str:
    """Return the reasoning that a message keeps apart from its text; "" where there is none."""
    content = message["content"]
    parts = content if isinstance(content, list) else []
    inside = [
        str(part.get("reasoning") or part.get("thinking") or part.get("text") or "")
        for part in parts
        if isinstance(part, Mapping) and part.get("type") in _THOUGHT
    ]
    beside = next((message[key] for key in _APART if isinstance(message.get(key), str)), "")
    return "".join(inside) or beside


def rejoined(reasoning: str, text: str) -> str:
    r"""Return a response's text with the reasoning that a parser split off.

    Parsers cut at the tags. Where they also strip white space, it is put back as models commonly
    write it; an empty text was cut off within the reasoning.

    >>> rejoined("Two and two.", "It is 4.")
    '<think>\nTwo and two.\n</think>\n\nIt is 4.'
    >>> rejoined("\nTwo and two.\n", "\n\nIt is 4.") == rejoined("Two and two.", "It is 4.")
    True
    """
    if not reasoning or reasoning.strip() in text:
        return text
    begun = THINK + ("" if reasoning[0].isspace() else "\n") + reasoning.removeprefix(THINK)
    if not text:
        return begun
    ended = begun + ("" if reasoning[-1].isspace() else "\n") + _END
    return ended + ("" if text[0].isspace() else "\n\n") + text


def keeps_reasoning_apart(value: Any) -> bool:
    """Say whether a cell is, or contains, a response whose reasoning `sampled_text` rejoins."""
    chat = as_chat(value)
    if chat is None:
        inner = plain(value)
        return isinstance(inner, list) and any(map(keeps_reasoning_apart, inner))
    return sampled_text(chat, "") != content_text(chat[-1]) if ends_with_answer(chat) else False


def sampled_text(chat: Chat, place: str) -> str:
    """Return the response that a chat's last turn contains, its reasoning rejoined.

    Args:
        chat: as `as_chat` returns it.
        place: names the row in messages.

    Raises:
        GeomrlError: it does not end with the assistant's turn.
    """
    if not ends_with_answer(chat):
        raise GeomrlError(
            f"{place}: no response: the messages end with the turn of '{chat[-1]['role']}'; name the "
            "column of the responses with --column response=NAME, or leave the row out"
        )
    return rejoined(reasoning_apart(chat[-1]), content_text(chat[-1]))


def same_text(one: str, other: str) -> bool:
    """Say whether two texts are the same but for white space."""
    return "".join(one.split()) == "".join(other.split())


def holds_text(whole: str, part: str) -> bool:
    """Say whether one text contains another, white space aside."""
    return "".join(part.split()) in "".join(whole.split())


def before_the_answer(
    chat: Chat, responses: Sequence[str], problem: str | None, answers: bool, place: str
) -> Chat:
    """Return the chat that the policy continued, of one that already contains an answer.

    The last turn is left out where it is certain that it is an answer and no beginning that the
    policy was given: the file names the problem, the chat asks it, and the turn is one of the
    responses or closes an answer marker.

    Args:
        chat: ends with the assistant's turn.
        responses: those of the file to this chat.
        problem: the statement, where the file has it.
        answers: whether the last turn closes an answer marker.
        place: names the row in messages.

    Raises:
        GeomrlError: that is not certain.
    """
    last = content_text(chat[-1])
    asked = problem is not None and any(
        message["role"] == "user" and holds_text(content_text(message), problem)
        for message in chat[:-1]
    )
    if asked and (answers or any(same_text(last, response) for response in responses)):
        return chat[:-1]
    raise GeomrlError(
        f"{place}: its messages end with the assistant's turn ({last[:40]!r}), and the response would "
        "follow it: this is not what the policy saw. Remove that turn from the messages; or, where the "
        "policy was to go on from it, give the prompt's whole text as --column prompt=NAME; or name the "
        "problem's statement with --column problem=NAME, and leave the messages aside: --column prompt="
    )
