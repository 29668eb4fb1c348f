"""Whether an imported prompt is what the policy saw, and its tokens.

A prompt that is not would be read at full length and graded as if nothing were wrong: every state
behind it is another one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from geomrl.errors import GeomrlError
from geomrl.problems.prompts import Prompt, chat_ids, continued_ids
from geomrl.rollout.imports.chats import Chat, as_chat, content_text
from geomrl.rollout.imports.responses import no_text

_SYSTEM, _USER = "geomrl-system", "geomrl-user"  # put in a template's place for a text


@dataclass(frozen=True)
class PromptReader:
    """Reads imported prompts for one tokenizer.

    thinking: passed to the chat template as `enable_thinking`; None leaves it out. raw: take a text
    as it is, even where the tokenizer has a chat template of which it shows no sign; question: take
    such a text as a user's turn.
    """

    tokenizer: Any
    thinking: bool | None = None
    raw: bool = False
    question: bool = False

    def read(self, value: Any, place: str, column: str = "prompt") -> Prompt:
        """Return the prompt of a cell: a chat through the template, a text as it is.

        A text that has lost the template's special tokens (verl writes with `skip_special_tokens`)
        gets them back where the rest agrees with the template to the letter.

        Args:
            value: a text or chat, in any form of `chats.as_chat`.
            place: names the row in messages.
            column: the cell's column, for messages.

        Raises:
            GeomrlError: the tokenizer has no chat template for a chat, or one of which a text shows
                no sign; or the cell contains neither.
        """
        chat = as_chat(value)
        if chat is not None:
            return self._chat(chat, place)
        if not isinstance(value, str) or not value:
            raise GeomrlError(no_text(value or None, place, "prompt", column))
        if self.raw or not self.signs or any(sign in value for sign in self.signs):
            return Prompt(value, continued_ids(self.tokenizer, value), "raw")
        found = self._recovered(value)
        if found is None and self.question:
            return self._chat([{"role": "user", "content": value}], place)
        if found is None:
            raise GeomrlError(
                f"{place}: its prompt ({value[:40]!r}...) shows no sign of the tokenizer's chat template, "
                f"such as {min(self.signs)!r}, so it is hardly what the policy saw: tools drop special "
                "tokens when they write. Give the text as it was sampled from, its token ids "
                "(--column prompt_ids=NAME) or its messages; or say that the policy went on from this "
                "very text (--raw-prompt); or leave it aside (--column prompt=) and name the statement "
                "(--column problem=NAME), which then goes through the template"
            )
        return Prompt(found, chat_ids(self.tokenizer, found), "recovered")

    @property
    def thinking_matters(self) -> bool:
        """Whether the template heeds `enable_thinking`."""
        chat = [{"role": "user", "content": _USER}]
        return self._rendered(chat, True) != self._rendered(chat, False)

    @cached_property
    def signs(self) -> frozenset[str]:
        """What every text from this chat template contains: its special tokens, or else its words."""
        if not getattr(self.tokenizer, "chat_template", None):
            return frozenset()
        frame = self._rendered([{"role": "user", "content": _USER}], self.thinking) or ""
        begin = self.tokenizer.bos_token
        found = {token for token in self._special if token in frame and token != begin}
        if found:
            return frozenset(found)
        words = [part.removeprefix(begin or "").strip() for part in frame.split(_USER)]
        return frozenset([word for word in reversed(words) if word][:1])

    @cached_property
    def _special(self) -> list[str]:
        """The texts that `skip_special_tokens` drops, longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {token.content for token in added if token.special}
        return sorted(texts | set(self.tokenizer.all_special_tokens), key=len, reverse=True)

    def _chat(self, chat: Chat, place: str) -> Prompt:
        if not getattr(self.tokenizer, "chat_template", None):
            raise GeomrlError(
                f"{place}: its prompt is a chat, and the tokenizer '{self.tokenizer.name_or_path}' has "
                "no chat template: give the rendered text (--column prompt=NAME), or the problem's "
                "statement (--column prompt= --column problem=NAME)"
            )
        plain = [{**message, "content": content_text(message)} for message in chat]
        text = self._rendered(plain, self.thinking)
        if text is None:
            roles = ", ".join(message["role"] for message in chat)
            raise GeomrlError(
                f"{place}: the tokenizer's chat template refuses its messages (turns of {roles}); give "
                "the text that was sampled from as --column prompt=NAME"
            )
        return Prompt(text, chat_ids(self.tokenizer, text), "messages")

    def _rendered(self, chat: Chat, thinking: bool | None) -> str | None:
        """Return a chat as the template writes it; None where it refuses it."""
        from jinja2 import TemplateError

        options = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, **options
                )
            )
        except TemplateError:
            return None

    def _recovered(self, text: str) -> str | None:
        """Return the only chat of a user (and system) that loses its special tokens to this text."""
        modes = (None, True, False) if self.thinking is None else (self.thinking,)
        for thinking in modes:
            for system in (True, False):
                chat = self._parted(text, system, thinking)
                whole = None if chat is None else self._rendered(chat, thinking)
                if whole is not None and self._bare(whole).rstrip() == text.rstrip():
                    return whole
        return None

    def _parted(self, text: str, system: bool, thinking: bool | None) -> Chat | None:
        """Part a text without special tokens into the messages that the template made it of."""
        chat = [{"role": "system", "content": _SYSTEM}] if system else []
        frame = self._rendered([*chat, {"role": "user", "content": _USER}], thinking)
        if frame is None or frame.count(_USER) != 1 or frame.count(_SYSTEM) != len(chat):
            return None
        before, after = self._bare(frame).split(_USER)
        between = before
        if system:
            before, between = before.split(_SYSTEM)
        after = after.rstrip()
        if not after.strip() or not between.strip():
            return None  # no word tells where the user's text begins or ends
        body = text.rstrip()
        if not (body.startswith(before) and body.endswith(after)):
            return None
        body = body[len(before) : len(body) - len(after)]
        parts = body.split(between) if system else [body]
        words = {line.strip() for line in f"{between}\n{after}".splitlines() if line.strip()}
        if len(parts) != len(chat) + 1 or any(
            line.strip() in words for part in parts for line in part.splitlines()
        ):
            return None  # more turns than one: which words are the template's is not certain
        contents = [*chat[:1], {"role": "user"}] if system else [{"role": "user"}]
        return [{**m, "content": part} for m, part in zip(contents, parts, strict=True)]

    def _bare(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, self._special)), "", text)
