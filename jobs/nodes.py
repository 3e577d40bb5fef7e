"""The nodes of a cluster: what they offer, and whether each has the job's checkpoint, asked before one is loaded."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from inference.checkpoint import open_checkpoint, weights_digest
from inference.config import ModelConfig
from inference.errors import ModelError, ShardlabelError
from jobs.models import prefixes
from jobs.provenance import software
from jobs.resources import Node, available_cpus
from jobs.stopping import POLL_SECONDS

# A node reads its copy of the weights once for this. Whoever has not answered by then is asked by its Predictors.
_ANSWER_SECONDS = 300.0

_NUM_NAMES = 3

Expected = tuple[tuple[ModelConfig, str], ...]
"""The job's models, each a folder, or a hub id with its commit; and the `weights_digest` of this node's copies."""


def list_nodes() -> list[Node]:
    """The living nodes of Ray that have a CPU or a GPU to give."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = []
    for node in _living():
        slots, gpus = node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
        if slots or gpus:
            # A Ray that a job starts for itself counts more CPUs than there are.
            cpus = min(int(slots), available_cpus()) if node["NodeID"] == here else int(slots)
            nodes.append(Node(cpus=cpus, gpus=gpus, slots=slots))
    return nodes


def expected_checkpoints(models: Sequence[ModelConfig], fingerprint: dict[str, Any]) -> Expected:
    """What the nodes should have for a job of these models, with the weights that its fingerprint names."""
    names = prefixes(len(models))
    return tuple((model, fingerprint[f"{name}.weights"]) for model, name in zip(models, names, strict=True))


def check_nodes(expected: Expected, is_to_end: Callable[[], bool] = lambda: False) -> frozenset[str]:
    """Compare the checkpoints of every other node with this one's: all nodes at once, one task each.

    Args:
        expected: what they should be; a hub id with its commit says by itself what every node loads.
        is_to_end: asked several times a second; no answer is waited for any longer when it says so.

    Returns:
        The ids of the nodes that have them; one that joins later is looked at by `check_here`.

    Raises:
        ModelError: a node lacks the folder, has something else in it, or cannot run this program.
    """
    import ray

    here, folders = ray.get_runtime_context().get_node_id(), _folders(expected)
    if not folders:
        return frozenset()
    others = [node for node in _living() if node["NodeID"] != here and node["Resources"].keys() & {"CPU", "GPU"}]
    known, wrong = {here}, list[tuple[str, str]]()
    for node, reason in _ask(others, is_to_end, _look, folders):
        if reason is None:
            known.add(node["NodeID"])
        else:
            wrong.append((node["NodeManagerAddress"], reason))
    if wrong:
        raise ModelError(_sentence(wrong))
    return frozenset(known)


def node_software() -> dict[str, dict[str, str | None] | str]:
    """The versions that a worker of each node has, this one's included, by its address; or why none could begin."""
    nodes = [node for node in _living() if node["Resources"].keys() & {"CPU", "GPU"}]
    return {node["NodeManagerAddress"]: answer for node, answer in _ask(nodes, lambda: False, software)}


def _ask(
    nodes: list[dict[str, Any]], is_to_end: Callable[[], bool], function: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Call a function of ours on each of some nodes, all at once.

    Yields:
        A node and what the function returned there, or a text that says why it could not run; nodes that do not answer
        in time, or are gone, are left out.
    """
    import ray

    ask = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {ask.options(scheduling_strategy=_only_on(node["NodeID"])).remote(*arguments): node for node in nodes}
    ready, until = list[Any](), time.monotonic() + _ANSWER_SECONDS
    # In short waits, since Ray hands on no exception that a signal's handler raises within one (2.60, _raylet.pyx).
    while len(ready) < len(asked) and time.monotonic() < until and not is_to_end():
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=POLL_SECONDS)
    for answer in ready:
        try:
            said = ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # it could not even begin
            said = f"cannot run shardlabel ({str(error).strip().splitlines()[-1]})"
        except ray.exceptions.RayError:
            continue  # the node is gone
        yield asked[answer], said


@cache
def check_here(expected: Expected, known: frozenset[str]) -> None:
    """The same for the node of this worker, unless it was looked at when the run began.

    Raises:
        ModelError: as `check_nodes`.
    """
    import ray

    folders = _folders(expected)
    if not folders or not ray.is_initialized() or ray.get_runtime_context().get_node_id() in known:
        return
    if reason := _look(folders):
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        raise ModelError(_sentence([(address, reason)]))


def _folders(expected: Expected) -> list[tuple[str, str]]:
    return [(model.model_dump_json(), weights) for model, weights in expected if model.revision is None]


def _look(folders: Iterable[tuple[str, str]]) -> str | None:
    """What is wrong with this node's copies; None is nothing."""
    for model, weights in folders:
        config = ModelConfig.model_validate_json(model)
        try:
            digest = weights_digest(open_checkpoint(config))
        except ShardlabelError as error:
            return str(error)
        if digest != weights:
            return f"has other files in {config.name}"
    return None


def _sentence(wrong: list[tuple[str, str]]) -> str:
    names = ", ".join(address for address, _ in wrong[:_NUM_NAMES]) + (" …" if len(wrong) > _NUM_NAMES else "")
    return (
        f"model.name: {len(wrong)} of the cluster's nodes cannot use the checkpoint: {names} "
        f"({wrong[0][1]}); put the same folder on every node, or on a disk they share, or give a hub id"
    )


def _living() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _only_on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
