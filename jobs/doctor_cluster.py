"""The doctor on a Ray cluster: does it answer, has it the same software, has every node the checkpoint?"""

from collections.abc import Mapping

from inference.findings import Notes
from jobs.cluster import connected
from jobs.config import JobConfig
from jobs.doctor_machine import Ground
from jobs.nodes import check_nodes, expected_checkpoints, list_nodes, node_software
from jobs.plan import Plan
from jobs.provenance import software

Versions = Mapping[str, str | None]

_NUM_NAMES = 3


def examine_cluster(job: JobConfig, address: str, plan: Plan | None, notes: Notes) -> Ground | None:
    """Join it, ask its nodes, leave it; None when it does not answer."""
    hook = job.task.options.get("postprocess")
    return notes.attempt("ray", lambda: _ask(address, hook if isinstance(hook, str) else None, plan, notes))


def _ask(address: str, hook: str | None, plan: Plan | None, notes: Notes) -> Ground:
    with connected(1, address, hook):
        nodes = list_nodes()
        what = f"{sum(node.slots for node in nodes):g} CPUs and {sum(node.gpus for node in nodes):g} GPUs"
        notes.ok("ray", f"the cluster at {address} answers: {len(nodes)} nodes with {what}")
        compare_versions(node_software(), software(), notes)
        if plan is None:
            notes.skip("copies", "whether the nodes have the checkpoint is not asked while the request has errors")
        else:
            expected = expected_checkpoints(plan.models, plan.fingerprint)
            if (known := notes.attempt("copies", lambda: check_nodes(expected))) is not None:
                who = "every node that answered has" if known else "a hub id at a commit: each node loads"
                notes.ok("copies", f"{who} the same checkpoint")
    return Ground(nodes=nodes, is_here=False)


def compare_versions(found: Mapping[str, Versions | str], here: Versions, notes: Notes) -> None:
    """Compare the software of the nodes with the driver's, or with one another's where the driver has none.

    Args:
        found: what each node has, by its address, or why it could not say.
        here: the driver's; None is not installed.
        notes: what is told.
    """
    if silent := {address: reason for address, reason in found.items() if isinstance(reason, str)}:
        address, reason = next(iter(silent.items()))
        notes.error("versions", f"{len(silent)} nodes cannot answer: {address} {reason}", "install shardlabel there")
    able = {address: versions for address, versions in found.items() if not isinstance(versions, str)}
    expected = dict(next(iter(able.values()), {})) | {name: number for name, number in here.items() if number}
    other = {
        address: [f"{name} {versions.get(name)} instead of {number}" for name, number in expected.items()
                  if versions.get(name) != number]
        for address, versions in able.items()
    }  # fmt: skip
    if differing := {address: names for address, names in other.items() if names}:
        address, names = next(iter(differing.items()))
        message = (
            f"{len(differing)} of {len(able)} nodes have other versions: {address} has {', '.join(names[:_NUM_NAMES])}"
        )
        advice = "install the same everywhere: tokens and rounding may differ between parts"
        notes.warn("versions", message, advice)
    elif able:
        said = ", ".join(f"{name} {number}" for name, number in expected.items() if number)
        notes.ok("versions", f"{len(able)} nodes have the same: {said}")
