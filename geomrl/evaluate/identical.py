"""Are two policies one and the same? Told from their rollout tables, in words."""

from __future__ import annotations

import pandas as pd


def identical(base: pd.DataFrame, other: pd.DataFrame) -> str | None:
    """Return a sentence where two rollout tables are of one model, or contain the same responses.

    Args:
        base: a rollout table (`geomrl.runs.rollouts.SCHEMA`).
        other: another; rows are matched by problem and sample.

    Returns:
        That weights and configuration are identical, or else that all responses are, word for word;
        None where neither is so.
    """
    one, two = (_hashes(table) for table in (base, other))
    if one and one == two:
        return (
            "the weights and the configuration are identical (hash "
            f"{min(one)}): this is one model under two names, so nothing could have changed"
        )
    left, right = (_responses(table) for table in (base, other))
    if left and left == right:
        return (
            f"all {len(left)} rollouts are identical, word for word: the policies cannot be told "
            "apart here"
        )
    return None


def _responses(table: pd.DataFrame) -> dict[tuple[str, str, int], str]:
    keys = zip(table["benchmark"], table["problem_id"], table["sample"], strict=True)
    return dict(zip(keys, table["response"], strict=True))


def _hashes(table: pd.DataFrame) -> set[str]:
    """Return the policies' hashes; none where some rollouts do not say theirs."""
    hashes = table["policy_hash"]
    return set() if hashes.isna().any() else set(hashes)
