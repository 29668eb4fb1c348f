"""State stores as an older geomrl wrote them: a rollout's states side by side, by their positions."""

from safetensors import safe_open
from safetensors.torch import save_file

from geomrl.files import write_parquet
from geomrl.runs.states import ROW_SCHEMA


def write_as_before(store, shards):
    """Write some of a store's shards over, their states in the order in which they once lay."""
    for shard in shards:
        rows, file = store.shard_rows(shard), store.path / f"shard-{shard:05d}.safetensors"
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
        rollouts = {name: i for i, name in enumerate(rows["rollout_id"].unique())}
        kept = rows.dropna(subset=["state_row"]).assign(at=rows["rollout_id"].map(rollouts))
        ordered = kept.sort_values(["at", "token_index"])["state_row"].drop_duplicates()
        order = ordered.astype(int).tolist()
        save_file({name: state[order] for name, state in tensors.items()}, file, metadata=metadata)
        moved = {row: i for i, row in enumerate(order)}
        moved_rows = rows["state_row"].map(moved, na_action="ignore").astype("Int64")
        write_parquet(
            store.path / f"shard-{shard:05d}.parquet", rows.assign(state_row=moved_rows), ROW_SCHEMA
        )
