"""What the output directory already holds: whose it is, which splits are committed, which parts are stale.

The parts are the truth (their footers say what they are); `_shardlabel/manifest.json` says whose directory it is.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.errors import FingerprintError, JobError, OutputError
from jobs import storage
from jobs.footers import Footers, read_footers
from jobs.listing import find_in_output
from jobs.models import UNSETTLED, count_models, prefixes
from jobs.parts import PartIdentity, PartRecord, is_torn
from jobs.shards import Shard, Split
from jobs.storage import Location

MANIFEST = "_shardlabel/manifest.json"
_REPORT = "_shardlabel/report.json"
SUCCESS = "_SUCCESS"

CLAIM_SECONDS = 5.0
"""Between two looks at the claim."""

ATTEMPTS = "_shardlabel/attempts"

# Bytes of a note's name, without its number: most filesystems take 255.
_MAX_NAME = 200
# Of a longer name, so many characters stay: how many others a bundle has is told at its end.
_NUM_KEPT = 12

_LATER_KEYS = ("deduplicate", "fp8", "trimmed")
"""Of a model: what was not done before there was such a key."""


class Wanted(Protocol):
    """What a directory is to hold in the end: a job's plan, or that of a relabelling."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """One part each."""

    @property
    def bad_shards(self) -> tuple[Shard, ...]:
        """Shards whose parts stay as they are."""

    @property
    def output(self) -> Location:
        """The directory."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of every part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The state of an output directory against a plan."""

    fingerprint: dict[str, Any]
    """The plan's, with what the hardware decides as the directory's first run settled it, if there was one."""
    records: tuple[PartRecord, ...]
    """Of the parts that are committed."""
    pending: tuple[Split, ...]
    """Splits without a committed part, in the plan's order."""
    stale: tuple[str, ...]
    """Parts that this job once wrote for splits that its shards no longer have."""
    footers: Footers
    """Of every Parquet file of the directory."""
    vanished: dict[str, list[str]]
    """Shards that the input no longer has, with their parts."""

    @property
    def identities(self) -> dict[str, PartIdentity | None]:
        """What the footers say."""
        return self.footers.identities


def read_committed(plan: Wanted, *, retry_failed: bool = False) -> Committed:
    """Compare the plan with the output directory.

    Args:
        plan: the job over the input as it is now.
        retry_failed: whether a part with failed rows is to be made again.

    Raises:
        FingerprintError: the directory holds the output of another job.
        OutputError: it holds Parquet files of somebody else.
    """
    fingerprint = plan.fingerprint
    claimed = read_fingerprint(plan.output)
    if claimed is not None:
        fingerprint = _adopt(fingerprint, claimed, plan.output)
    footers = read_footers(plan.output)
    identities = footers.identities
    found = next((identity for identity in identities.values() if identity is not None), None)
    if claimed is None and found is not None:
        fingerprint = _adopt(fingerprint, found.fingerprint, plan.output)
    parts, adopted = {split.part for split in plan.splits}, None
    for name, identity in identities.items():
        if identity is None:
            if claimed is not None and name in parts and is_torn(plan.output.join(name)):
                continue  # our own, whose end a crash of the machine took; it is written again
            msg = (
                f"output.path: {plan.output} holds {name}, which shardlabel did not write; give a directory of its own"
            )
            raise OutputError(msg)
        if identity.fingerprint is not adopted:
            _adopt(fingerprint, identity.fingerprint, plan.output)
            adopted = identity.fingerprint
    records, pending = [], []
    for split in plan.splits:
        identity = identities.get(split.part)
        is_committed = identity is not None and identity.is_of(split)
        if identity is not None and is_committed and not (retry_failed and identity.record.num_failed):
            records.append(identity.record)
        else:
            pending.append(split)
    stale, vanished = _superfluous(plan, identities)
    return Committed(
        fingerprint=fingerprint,
        records=tuple(records),
        pending=tuple(pending),
        stale=tuple(stale),
        footers=footers,
        vanished=vanished,
    )


def _superfluous(plan: Wanted, identities: dict[str, PartIdentity | None]) -> tuple[list[str], dict[str, list[str]]]:
    """Our parts that no split wants: those of shards that were cut otherwise, and those of shards that vanished."""
    shards, parts = {split.shard for split in plan.splits}, {split.part for split in plan.splits}
    unreadable = {shard.name for shard in plan.bad_shards}  # there, but broken now; they may be mended
    stale, vanished = list[str](), dict[str, list[str]]()
    for name, identity in sorted(identities.items()):
        if identity is None or name in parts:
            continue
        if identity.shard in shards:
            stale.append(name)
        elif identity.shard not in unreadable:
            vanished.setdefault(identity.shard, []).append(name)
    return stale, vanished


def read_fingerprint(output: Location) -> dict[str, Any] | None:
    """What the directory was claimed for; None when it was not, or the manifest is lost.

    Raises:
        OutputError: it cannot be read or is none.
    """
    content = storage.read_text(output.join(MANIFEST))
    try:
        return None if content is None else dict(json.loads(content)["fingerprint"])
    except (ValueError, TypeError, KeyError) as error:
        msg = f"output.path: {output.join(MANIFEST)} is no manifest; delete it, since the parts say whose they are"
        raise OutputError(msg) from error


def settle(fingerprint: dict[str, Any], existing: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A job's fingerprint beside that of an output or a part.

    Returns:
        the job's, with what is left to the hardware as the output's first run made it, and in what the two differ.
    """
    existing = in_full(existing)
    resolved = dict(fingerprint)
    for key, value in fingerprint.items():
        name = key.rpartition(".")[2]
        if key.startswith("model.") and name in UNSETTLED and value == UNSETTLED[name]:
            resolved[key] = existing.get(key)
    return resolved, [
        f"{key} was {existing.get(key)!r}, is {resolved.get(key)!r}"
        for key in sorted({*existing, *resolved})
        if existing.get(key) != resolved.get(key)
    ]


def _adopt(fingerprint: dict[str, Any], existing: dict[str, Any], output: Location) -> dict[str, Any]:
    """Check that two fingerprints are one job's; see `settle`."""
    resolved, changes = settle(fingerprint, existing)
    if changes:
        msg = f"output.path: {output} holds the output of another job ({'; '.join(changes)}); give another directory"
        raise FingerprintError(msg)
    return resolved


def in_full(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint that was written, with the keys that there were not yet."""
    models = prefixes(max(count_models(fingerprint), 1))
    return {f"{model}.{key}": False for model in models for key in _LATER_KEYS} | fingerprint


def _claim(output: Location, fingerprint: dict[str, Any]) -> None:
    content = json.dumps({"fingerprint": fingerprint}, indent=2, sort_keys=True).encode()
    claimed = None if storage.create(output.join(MANIFEST), content) else read_fingerprint(output)
    if claimed is not None:
        _adopt(fingerprint, claimed, output)


class ClaimCheck:
    """Looks now and then whether a directory is still claimed for this job: on a store each look is a request."""

    def __init__(self, output: Location, fingerprint: dict[str, Any]) -> None:
        """Look at the first chance."""
        self._output, self._fingerprint, self._look_at = output, fingerprint, 0.0

    def look(self, *, is_last: bool = False) -> None:
        """Look, if it was some seconds ago or is the last time; claim it again if it is not claimed at all.

        Raises:
            JobError: it is another job's now, as can happen on an object store when two begin in the same moment.
        """
        if time.monotonic() < self._look_at and not is_last:
            return
        try:
            _claim(self._output, self._fingerprint)
        except FingerprintError as error:
            msg = (
                f"the run stopped, since another job began at {self._output} in the same moment ({error}); parts of "
                "both may lie there, so delete them and run each job in a directory of its own"
            )
            raise JobError(msg) from error
        self._look_at = time.monotonic() + CLAIM_SECONDS


def is_claimed(output: Location, fingerprint: dict[str, Any]) -> bool:
    """Whether the directory is claimed for this job."""
    claimed = read_fingerprint(output)
    try:
        return claimed is not None and bool(_adopt(fingerprint, claimed, output))
    except FingerprintError:
        return False


def forget_attempts(output: Location) -> None:
    """Remove the notes of attempts, but not their directory: another run of the job may be making new ones there."""
    for name in read_attempts(output):
        storage.delete(output.join(f"{ATTEMPTS}/{name}"))


def begin(output: Location, fingerprint: dict[str, Any]) -> None:
    """Claim the directory for this job and take back the sign that it is complete.

    Two runs of one job at once do no harm: both write the same bytes under the same names, each file whole. Of two jobs
    that find an empty directory at once, the second is refused here (on an object store, see `storage.create`).

    Raises:
        FingerprintError: another job has claimed the directory meanwhile; nothing was changed.
    """
    _claim(output, fingerprint)
    storage.delete(output.join(SUCCESS))
    forget_attempts(output)


def note_attempt(output: Location, part: str, max_attempts: int) -> Location | None:
    """Note that a part is begun, unless it was begun `max_attempts` times in this run; then there is no note.

    What a process that is killed has noted is what remains of it; who gets through removes the note.
    """
    name = part.replace("/", "%2F")  # flat: not every store nests empty files
    if len(name.encode()) > _MAX_NAME:
        name = hashlib.sha256(name.encode()).hexdigest() + name[-_NUM_KEPT:]
    for number in range(max_attempts):
        note = output.join(f"{ATTEMPTS}/{name}.{number}")
        if storage.read_text(note) is None:
            storage.write(note, b"")
            return note
    return None


def read_attempts(output: Location) -> dict[str, int | None]:
    """The notes that are there now, each with the time of its last change.

    Raises:
        OutputError: they cannot be listed.
    """
    return {name: info.mtime_ns for name, info in find_in_output(output.join(ATTEMPTS))}


def is_complete(output: Location) -> bool:
    """Whether a run has finished here and nothing was begun since."""
    return storage.read_text(output.join(SUCCESS)) is not None


def finish(output: Location, stale: Sequence[str], report: dict[str, Any], *, is_complete: bool) -> None:
    """Remove stale parts, leave the report, and last of all the sign that the output is complete, or take it away."""
    if not is_complete:
        storage.delete(output.join(SUCCESS))
    for name in stale:
        storage.delete(output.join(name))
    storage.sweep(output)
    forget_attempts(output)
    storage.write(output.join(_REPORT), json.dumps(report, indent=2).encode())
    if is_complete:
        storage.write(output.join(SUCCESS), b"")
