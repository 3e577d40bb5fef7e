"""What a relabelling is to do: the old output checked, the new options checked against its head; nothing is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from inference.errors import ConfigError, FingerprintError, InputError, OutputError
from inference.labelling import Labelling
from jobs import manifest
from jobs.footers import read_footers
from jobs.kept_logits import LOGITS, KeptLogits
from jobs.parts import PartIdentity
from jobs.shards import Shard, Split
from jobs.storage import Location, locate, overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelling:
    """What the new output is to hold, and of what; see `manifest.Wanted`."""

    source: Location
    output: Location
    identities: dict[str, PartIdentity]
    """Of the parts that are there."""
    splits: tuple[Split, ...]
    """Those that the parts were made from."""
    fingerprint: dict[str, Any]
    """Of the job with the new options."""
    before: Labelling
    after: Labelling
    is_complete: bool
    """Whether the old output is."""
    bad_shards: tuple[Shard, ...] = ()


def plan_relabelling(
    source: str, output: str, changes: Mapping[str, Any], *, scores: bool | None = None, is_partial: bool = False
) -> Relabelling:
    """Check the request; nothing is written.

    Args:
        source: the `output.path` of a job that kept logits.
        output: where the new parts go.
        changes: `task.options` to replace; None takes one out.
        scores: whether to keep every class's score; None is as before.
        is_partial: take what there is of an output that is not complete.

    Raises:
        ShardlabelError: the request is wrong; see the subclasses for what can be.
    """
    old, new = locate(source), locate(output)
    if overlap(old, new):
        msg = f"{new} and {old} lie in one another; give the new output a directory of its own"
        raise ConfigError(msg)
    identities = _identities(old)
    is_complete = manifest.is_complete(old)
    if not is_complete and not is_partial:
        msg = f"{source}: is not complete; run its job again, or take what there is with --partial"
        raise OutputError(msg)
    kept = KeptLogits.read(old, min(identities))
    options = kept.changed_options(changes)
    after = kept.labelling(options, scores=scores)
    keeps_scores = kept.fingerprint["output.scores"] if scores is None else scores
    old_fingerprint = manifest.in_full(kept.fingerprint)
    fingerprint = old_fingerprint | {"task.options": options, "output.scores": keeps_scores}
    if fingerprint == old_fingerprint:
        msg = f"{source}: is labelled like this already; name an option that changes, as in temperature=1.5"
        raise ConfigError(msg)
    before = kept.labelling()
    relabelled_schema(kept.schema, before, after)
    return Relabelling(
        source=old,
        output=new,
        identities=identities,
        splits=tuple(map(_split, identities.values())),
        fingerprint=fingerprint,
        before=before,
        after=after,
        is_complete=is_complete,
    )


def _identities(output: Location) -> dict[str, PartIdentity]:
    """The parts of the old output, by name, checked to be of one job."""
    found: dict[str, PartIdentity] = {}
    for name, identity in read_footers(output).identities.items():
        if identity is None:
            msg = f"{output}: holds {name}, which is no part of shardlabel; move it away, or run the job again"
            raise OutputError(msg)
        found[name], first = identity, next(iter(found.values()), identity).fingerprint
        if identity.fingerprint is first:  # as a rule: few parts bring one of their own
            continue
        if manifest.in_full(identity.fingerprint) != manifest.in_full(first):
            msg = f"{output}: {name} and {next(iter(found))} are of different jobs; run each in a directory of its own"
            raise FingerprintError(msg)
    if not found:
        msg = f"{output}: holds no output of shardlabel; give the output.path of a job that has run"
        raise OutputError(msg)
    return found


def _split(identity: PartIdentity) -> Split:
    """What the part was made from; where that lies plays no role here."""
    return Split(
        part=identity.record.part,
        shard=identity.shard,
        uri="",
        path="",
        size=identity.size,
        mtime_ns=identity.mtime_ns,
        first_row_group=identity.first_row_group,
        num_row_groups=identity.num_row_groups,
        num_rows=identity.record.num_rows,
        first_row=identity.first_row,
    )


def relabelled_schema(schema: pa.Schema, before: Labelling, after: Labelling) -> pa.Schema:
    """The columns of a part with the label columns replaced; the others stay where they are.

    Raises:
        OutputError: the label columns are not there as the old options say.
        InputError: another column has the name of a new one.
    """
    names = [field.name for field in before.fields()]
    end = schema.get_field_index(LOGITS) + 1
    start = end - len(names)
    if schema.names[start:end] != names:
        msg = f"a part has the columns {', '.join(schema.names)}, where {', '.join(names)} were expected together"
        raise OutputError(msg)
    others = [*schema.names[:start], *schema.names[end:]]
    for field in after.fields():
        if field.name in others:
            msg = (
                f"the output has a column {field.name!r} of its input, which is also what text-classification writes; "
                "run the job with output.keep_columns without it"
            )
            raise InputError(msg)
    fields = list(schema)
    return pa.schema([*fields[:start], *after.fields(), *fields[end:]])
