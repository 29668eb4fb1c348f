"""How a file of another tool is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geomrl.files import user_code_hash
from geomrl.runs.layout import USER_CODE

READER = "reader"
_NEWER = ("raw_prompt", "format")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How to read the file.

    columns: ours -> the file's, where guessing is wrong; "doc.question" reaches into a nested column,
    and "" says that there is none. where: keep only rows whose column has this value. keep_labels:
    take the file's verdicts instead of grading again. retokenize: ignore the file's token ids.
    template and system are used where a row has a problem statement instead of a prompt; thinking
    there and with chat messages. raw_prompt: take a prompt's text as it is, although the
    tokenizer has a chat template of which it shows no sign. format: "FILE.py:NAME", a function of the
    user's that reads the file (`formats.Format.read`); by default the format is recognised.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    keep_labels: bool = False
    retokenize: bool = False
    template: str = "boxed"
    system: str | None = None
    thinking: bool | None = None
    raw_prompt: bool = False
    format: str | None = None


def import_settings(config: ImportConfig) -> dict[str, Any]:
    """Return what decides an import's content, in JSON's types, for its manifest.

    `raw_prompt` and `format` are in it where they are set: manifests from before them do not know them.
    `reader` is the version of how files are read.

    Raises:
        GeomrlError: the file of the user's format is absent.
    """
    settings = {k: dict(v) if isinstance(v, Mapping) else v for k, v in asdict(config).items()}
    settings = {k: v for k, v in settings.items() if k not in _NEWER or v} | {READER: 2}
    if config.format is not None:
        settings[USER_CODE] = {config.format: user_code_hash(config.format)}
    return settings
