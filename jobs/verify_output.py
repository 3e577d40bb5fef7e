"""Which parts an output has, as its directory is listed: each split's one, none too many, and the index of them.

In: a plan and the footers. Out: the splits whose parts are worth reading, and what is wrong with the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.errors import OutputError
from jobs import manifest
from jobs.footers import Footers
from jobs.index import INDEX, Entry, read_index
from jobs.parts import PartIdentity
from jobs.plan import Plan
from jobs.shards import Split
from jobs.verify_parts import Problem, explain_unreadable


@dataclass(slots=True)
class Listing:
    """An output against its plan, before a part is read."""

    problems: list[Problem] = field(default_factory=list)
    readable: list[Split] = field(default_factory=list)
    """Splits with a part whose footer is right."""
    new: list[str] = field(default_factory=list)
    """Shards that no run has finished yet."""
    stale: list[str] = field(default_factory=list)
    """Shards that changed, or are cut otherwise, since their parts were made."""
    vanished: list[str] = field(default_factory=list)
    """Shards that the input no longer has, though their parts are there."""


def check_listing(plan: Plan, fingerprint: dict[str, Any], footers: Footers) -> Listing:
    """Compare the files of an output with the plan, the index and the sign that all is done."""
    found, is_complete = Listing(), manifest.is_complete(plan.output)
    index = _read_index(found, plan)
    for split in plan.splits:
        if split.part not in footers.files:
            # Without an index it is not known which parts there were; all of them, if a run has finished.
            if Entry.of(split) in index.get(split.shard, ()) or (is_complete and not index):
                message = f"the part of {split.num_rows:,} rows of {split.shard} is gone, which a run had written"
                found.problems.append(Problem("missing", message, split.part))
            else:
                found.new.append(split.shard)
            continue
        identity = footers.identities[split.part]
        if problem := _whose(plan, split.part, identity, fingerprint):
            found.problems.append(problem)
        elif identity is not None and identity.is_of(split):
            found.readable.append(split)
        else:
            found.stale.append(split.shard)
    sound = _sound_shards(plan.splits, found.readable)
    _check_others(found, plan, footers, fingerprint, set(sound))
    _check_index(found, index, sound, footers)
    found.stale, found.new = list(dict.fromkeys(found.stale)), list(dict.fromkeys(found.new))
    if not is_complete:
        message = "there is no _SUCCESS, so no run has finished since the last one began; run the job again"
        found.problems.append(Problem("unfinished", message, manifest.SUCCESS))
    return found


def _read_index(found: Listing, plan: Plan) -> Mapping[str, Sequence[Entry]]:
    try:
        return read_index(plan.output)
    except OutputError as error:
        found.problems.append(Problem("index", str(error).removeprefix("output.path: "), INDEX))
        return {}


def _whose(plan: Plan, name: str, identity: PartIdentity | None, fingerprint: dict[str, Any]) -> Problem | None:
    """What is wrong with a file's footer: no part, of another job, or a copy under another name."""
    if identity is None:
        return Problem(*explain_unreadable(plan.output.join(name)), name)
    if changes := manifest.settle(fingerprint, identity.fingerprint)[1]:
        return Problem("foreign", f"it is a part of another job ({'; '.join(changes)})", name)
    if identity.record.part != name:
        return Problem("extra", f"it is a copy of {identity.record.part}, whose rows are there twice then", name)
    return None


def _sound_shards(splits: Sequence[Split], readable: Sequence[Split]) -> dict[str, list[Split]]:
    """The splits of the shards that have all their parts."""
    parts, shards = {split.part for split in readable}, dict[str, list[Split]]()
    for split in splits:
        shards.setdefault(split.shard, []).append(split)
    return {shard: own for shard, own in shards.items() if all(split.part in parts for split in own)}


def _check_others(found: Listing, plan: Plan, footers: Footers, fingerprint: dict[str, Any], sound: set[str]) -> None:
    """Files that no split wants."""
    wanted, shards = {split.part for split in plan.splits}, {split.shard for split in plan.splits}
    unreadable = {shard.name for shard in plan.bad_shards}
    for name, identity in footers.identities.items():
        if name in wanted:
            continue
        if identity is None:
            found.problems.append(Problem("foreign", "it belongs to no split, and shardlabel did not write it", name))
        elif problem := _whose(plan, name, identity, fingerprint):
            found.problems.append(problem)
        elif identity.shard in sound:
            message = f"it holds rows of {identity.shard}, all of which are in other parts"
            found.problems.append(Problem("extra", message, name))
        elif identity.shard in shards:
            found.stale.append(identity.shard)
        elif identity.shard not in unreadable and identity.shard not in found.vanished:
            found.vanished.append(identity.shard)
    for shard in plan.bad_shards:
        found.problems.append(Problem("input", f"the shard is {shard.error}", shard.name))


def _check_index(
    found: Listing, index: Mapping[str, Sequence[Entry]], sound: Mapping[str, Sequence[Split]], footers: Footers
) -> None:
    """The index names what is there, and all of it."""
    gone = {problem.where for problem in found.problems}
    for shard, splits in sound.items():
        if shard not in index:
            message = "the index does not name it, so whoever reads through the index misses its rows"
            found.problems.append(Problem("index", message, shard))
        elif list(index[shard]) != [Entry.of(split) for split in splits]:
            message = "the index names other parts, or another version of it, than there are"
            found.problems.append(Problem("index", message, shard))
    for shard, entries in index.items():
        lost = [entry.file for entry in entries if entry.file == entry.part and entry.part not in footers.files]
        for name in lost:
            if shard not in sound and name not in gone:
                found.problems.append(
                    Problem("index", f"the index names it as a part of {shard}, and it is gone", name)
                )
