"""Imports that an earlier geomrl made: resumed where this one would have read the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.errors import GeomrlError
from geomrl.problems.golds import bare_gold
from geomrl.rollout.imports.config import READER
from geomrl.rollout.imports.prompts import PromptReader
from geomrl.runs.manifest import read_manifest


def comparable_settings(
    run: Path, settings: dict[str, Any], table: pd.DataFrame, tokenizer: Any = None
) -> dict[str, Any]:
    """Return the settings to compare with those that a run of imported rollouts has recorded.

    One without `reader` read golds and prompts as they were: it is compared with the table.

    Args:
        run: the folder of the import.
        settings: of the command that is repeated.
        table: what was imported.
        tokenizer: that made its prompts; None where there are no tokens.

    Raises:
        GeomrlError: the table contains a gold or a prompt that is read otherwise now.
    """
    before = read_manifest(run).get("rollouts", {}).get("settings", {})
    if READER in before:
        return settings
    reason = _gold_doubt(table) if not settings["keep_labels"] else None
    if reason is None and tokenizer is not None:
        reason = _prompt_doubt(table, PromptReader(tokenizer, settings["thinking"]))
    if reason is not None:
        raise GeomrlError(
            f"{run}: was imported by an earlier version of geomrl, and {reason}. Import the file again: "
            "give another --out, or delete this folder"
        )
    return {name: value for name, value in settings.items() if name != READER}


def _gold_doubt(table: pd.DataFrame) -> str | None:
    for gold in table["gold"].dropna().unique():
        if bare_gold(str(gold)) != gold:
            return f"its gold answer {str(gold)[:40]!r} was graded against as a whole"
    return None


def _prompt_doubt(table: pd.DataFrame, reader: PromptReader) -> str | None:
    read = table[(table["prompt_kind"] == "raw") & (table["token_source"] == "re-tokenised")]
    for row in read.drop_duplicates("prompt").to_dict("records"):
        try:
            ids = reader.read(row["prompt"], "there").ids
        except GeomrlError as error:
            return str(error)
        if ids != list(row["prompt_ids"]):
            return f"its prompt {row['prompt'][:40]!r} has other tokens now"
    return None
