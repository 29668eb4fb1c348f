"""Any file with a row a problem or a response, whose columns have usual names or are named."""

from geomrl.rollout.imports.format import Format

FORMAT = Format(tool=None, files=".jsonl, .json, .parquet", signatures=(frozenset(),))
