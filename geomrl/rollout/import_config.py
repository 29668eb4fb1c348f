"""How a file of another tool is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

READER = "reader"


@dataclass(frozen=True)
class ImportConfig:
    """How to read the file.

    columns: ours -> the file's, where guessing is wrong; "doc.question" reaches into a nested column,
    and "" says that there is none. where: keep only rows whose column has this value. keep_labels:
    take the file's verdicts instead of grading again. retokenize: ignore the file's token ids.
    template and system are used where a row has a problem statement instead of a prompt; thinking
    there and with chat messages. raw_prompt: take a prompt's text as it stands, although the
    tokenizer has a chat template of which it shows no sign.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    keep_labels: bool = False
    retokenize: bool = False
    template: str = "boxed"
    system: str | None = None
    thinking: bool | None = None
    raw_prompt: bool = False


def import_settings(config: ImportConfig) -> dict[str, Any]:
    """Return what decides an import's content, in JSON's types, for its manifest.

    `raw_prompt` stands there where it is set: manifests from before it do not know it. `reader` is the
    version of how files are read.
    """
    settings = {k: dict(v) if isinstance(v, Mapping) else v for k, v in asdict(config).items()}
    return {k: v for k, v in settings.items() if k != "raw_prompt" or v} | {READER: 2}
