"""What a job has still to do, in numbers: the plan against what the output directory holds."""

from dataclasses import dataclass

from jobs.manifest import Committed
from jobs.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """Splits and their rows. Each split is committed, new, or changed."""

    num_shards: int
    """That are readable; so are the rows and bytes."""
    num_rows: int
    num_bytes: int
    """Of the shards' files."""
    bad_shards: dict[str, str]
    """Shards that are not readable -> why."""
    num_splits: int
    num_committed: int
    committed_rows: int
    num_pending: int
    """Splits that a run would label: `num_new` and `num_changed`."""
    pending_rows: int
    num_new: int
    """Splits that have no part yet, of shards that the output does not know or has in this version."""
    new_rows: int
    num_changed: int
    """Splits without a part, of shards that were labelled in another version or were cut otherwise then."""
    changed_rows: int
    num_failed_rows: int
    """Failed rows of committed splits."""
    num_retry_splits: int
    """Committed splits that have failed rows, which `retry` labels again, as `retry_rows`."""
    retry_rows: int
    num_stale_parts: int
    """Parts that no split wants any more; a run removes them."""
    vanished_shards: list[str]
    """Shards that the input no longer has, but whose parts the output has."""
    num_vanished_parts: int


def count_todo(plan: Plan, committed: Committed) -> Todo:
    """Count what is there and what is to do."""
    current = {record.part for record in committed.records}
    others = {made.shard for part, made in committed.identities.items() if made is not None and part not in current}
    changed = [split.num_rows for split in committed.pending if split.shard in others]
    new = [split.num_rows for split in committed.pending if split.shard not in others]
    failed = [record for record in committed.records if record.num_failed]
    sizes = {split.shard: split.size for split in plan.splits}
    return Todo(
        num_shards=len(sizes),
        num_rows=sum(split.num_rows for split in plan.splits),
        num_bytes=sum(sizes.values()),
        bad_shards={shard.name: str(shard.error) for shard in plan.bad_shards},
        num_splits=len(plan.splits),
        num_committed=len(committed.records),
        committed_rows=sum(record.num_rows for record in committed.records),
        num_pending=len(committed.pending),
        pending_rows=sum(new) + sum(changed),
        num_new=len(new),
        new_rows=sum(new),
        num_changed=len(changed),
        changed_rows=sum(changed),
        num_failed_rows=sum(record.num_failed for record in failed),
        num_retry_splits=len(failed),
        retry_rows=sum(record.num_rows for record in failed),
        num_stale_parts=len(committed.stale),
        vanished_shards=sorted(committed.vanished),
        num_vanished_parts=sum(map(len, committed.vanished.values())),
    )
