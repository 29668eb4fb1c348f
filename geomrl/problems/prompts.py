"""From a problem's statement to the prompt that a model continues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import BENCHMARK as ARITHMETIC
from geomrl.problems.arithmetic import TRAINING_BENCHMARK as ARITHMETIC_TRAIN
from geomrl.problems.variants import VARIANTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"
PromptKind = Literal["raw", "templated", "messages", "recovered"]

TEMPLATES = {
    # Qwen's own wording for its mathematics models.
    "boxed": PLACEHOLDER
    + "\nPlease reason step by step, and put your final answer within \\boxed{}.",
    # The prompt published with DAPO-Math-17k. Its answer line wants the marker
    # r"re:(?i)Answer\s*:\s*([^\n]+)".
    "dapo": "Solve the following math problem step by step. The last line of your response should"
    " be of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
    f'\n\n{PLACEHOLDER}\n\nRemember to put your answer on its own line after "Answer:".',
    "plain": PLACEHOLDER,
}


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: the exact text and the token ids that the model is given.

    `kind` is "templated" where the tokenizer's chat template made the text, "raw" where the text
    is continued as it is, "messages" for an imported chat that the template made a text of, and
    "recovered" for an imported text whose special tokens were put back.
    """

    text: str
    ids: list[int]
    kind: str


def default_template(benchmark: str) -> str:
    """`plain` for the bundled arithmetic task, whose model knows no instructions, else `boxed`."""
    bundled = (ARITHMETIC, ARITHMETIC_TRAIN, *VARIANTS)
    return "plain" if benchmark in bundled else "boxed"


def fill_template(template: str, statement: str) -> str:
    """Put the statement into a named template, or into a string that contains `{problem}`.

    Only `{problem}` is replaced: every other brace is LaTeX and stays.

    Raises:
        GeomrlError: the template is neither.
    """
    text = TEMPLATES.get(template, template)
    if PLACEHOLDER not in text:
        raise GeomrlError(
            f"prompt template '{template}' is neither one of {', '.join(TEMPLATES)} nor a string"
            f" with '{PLACEHOLDER}' in it: name one, or say where the statement goes"
        )
    return text.replace(PLACEHOLDER, statement)


def render_prompt(
    statement: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    system: str | None = None,
    thinking: bool | None = None,
) -> Prompt:
    """Render one statement for one tokenizer.

    With a chat template the filled text becomes the user's message (after `system`, if any), and
    the ids are those of the rendered text without further special tokens, which the chat template
    has already written. Without one the text is continued as it is, with the special tokens
    that the tokenizer puts in front by itself.

    Args:
        statement: The problem's text.
        tokenizer: A transformers tokenizer.
        template: See `fill_template`.
        system: A system message.
        thinking: Passed to the chat template as `enable_thinking` (Qwen3); None leaves it out.

    Raises:
        GeomrlError: an unknown template; or `system` or `thinking` for a tokenizer without a chat
            template, where they would be ignored.
    """
    user = fill_template(template, statement)
    if not getattr(tokenizer, "chat_template", None):
        if system is not None or thinking is not None:
            option = "system" if system is not None else "thinking"
            raise GeomrlError(
                f"prompt option '{option}' needs a chat template, and the tokenizer"
                f" '{tokenizer.name_or_path}' has none: leave it out"
            )
        return Prompt(user, continued_ids(tokenizer, user), "raw")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": user})
    options: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )
    return Prompt(str(text), chat_ids(tokenizer, str(text)), "templated")


def chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text that a chat template made: it has written the special tokens."""
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def continued_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text that is continued as it is.

    With the special tokens that the tokenizer puts in front (BOS), unless the text begins with them.
    """
    bare = chat_ids(tokenizer, text)
    whole = [int(token) for token in tokenizer(text, add_special_tokens=True)["input_ids"]]
    front = whole[: len(whole) - len(bare)] if whole[len(whole) - len(bare) :] == bare else []
    return bare if front and bare[: len(front)] == front else whole
