"""A job on several hosts: submitted from one, labelled on others, one of which is cut off while another joins."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.families import build_checkpoint
from tests.multihost.cluster import (
    HOST_ENVIRONMENT,
    NUM_PARTS,
    NUM_SHARDS,
    ROWS_PER_SHARD,
    Cluster,
    contents_of,
    wait_until,
)
from tests.multihost.hosts import LOCAL, Host, Network, why_not

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.timeout(900),
    pytest.mark.skipif((reason := why_not()) is not None, reason=f"no hosts on this machine: {reason}"),
]

RUN = ["shardlabel", "run", "job.yaml", "--json"]

STRANGERS = {
    "has no token": {},
    "has another token": {"RAY_AUTH_TOKEN": "0" * 64},
    "does not know of tokens": {"RAY_AUTH_MODE": "disabled"},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("hosts"), HOST_ENVIRONMENT) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    checkpoint = build_checkpoint(tmp_path_factory.mktemp("model"), "bert", "sequence-classification")
    return Cluster(network, checkpoint)


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> dict[str, bytes]:
    """The parts of the same job in one process of one host."""
    output = [f"output.path={LOCAL}/expected", "run.executor=local"]
    status, messages = cluster.client.run([*RUN, *output], "local.log", 300, folder="job")
    assert status == 0, messages
    parts = contents_of(cluster.client.folder / "expected")
    assert len(parts) == NUM_PARTS
    return parts


def labelled_by(host: Host) -> int:
    """How many micro-batches a host has labelled."""
    path = host.folder / "labelled"
    return len(path.read_text().splitlines()) if path.exists() else 0


def longest_pause(folder: Path) -> float:
    """Seconds between one part and the next, at most."""
    times = sorted(part.stat().st_mtime for part in folder.rglob("*.parquet"))
    return max(after - before for before, after in pairwise(times))


def assert_complete(folder: Path, expected: dict[str, bytes]) -> None:
    assert contents_of(folder) == expected
    ids = [row for part in sorted(folder.rglob("*.parquet")) for row in pq.read_table(part)["id"].to_pylist()]
    assert ids == list(range(NUM_SHARDS * ROWS_PER_SHARD))
    assert (folder / "_SUCCESS").exists()


def test_a_job_goes_on_when_a_host_is_cut_off_and_another_joins(
    network: Network, cluster: Cluster, expected: dict[str, bytes]
) -> None:
    (lost, lost_node), (kept, _) = cluster.add_worker("worker-1"), cluster.add_worker("worker-2")
    for host in (lost, kept):
        cluster.wait_for(host)
    submit = ["ray", "job", "submit", f"--address={cluster.dashboard}", "--working-dir=.", "--"]
    output = cluster.store.folder / "buckets/labels/submitted"
    job = cluster.client.start(
        [*submit, *RUN, f"output.path='{cluster.uri('labels/submitted')}'"], "submit.log", folder="job"
    )
    wait_until(lambda: min(labelled_by(lost), labelled_by(kept)) >= 2, 300, "both hosts have labelled something")

    network.cut(lost)
    num_parts = len(contents_of(output))
    slow_down(kept, 5)  # so that there is work left for the new host, however long it takes to start
    new, _ = cluster.add_worker("worker-3")
    missed = wait_until(lambda: cluster.has_lost(lost), 300, "the host is missed")
    wait_until(lambda: labelled_by(new) > 0, 300, "the new host labels")
    slow_down(kept, 0)
    assert job.wait(600) == 0, cluster.client.read("submit.log")
    assert num_parts < NUM_PARTS
    assert_complete(output, expected)
    print(
        f"{num_parts} of {NUM_PARTS} parts when the cable was pulled; {missed:.0f} s until the host was missed;",
        f"{longest_pause(output):.0f} s without a part;",
        f"micro-batches: {', '.join(f'{host.name} {labelled_by(host)}' for host in (lost, kept, new))}",
    )

    network.mend(lost)
    wait_until(lambda: lost_node.poll() is not None, 300, "the host that was cut off ends its node")
    assert_complete(output, expected)


def test_a_host_without_cpus_drives_a_job_that_others_label(cluster: Cluster, expected: dict[str, bytes]) -> None:
    client = cluster.client
    cluster.join(client, num_cpus=0)
    cluster.wait_for(client)
    before = labelled_by(client)
    command = [*RUN, f"--address={cluster.gcs}", f"output.path={cluster.uri('labels/driven')}"]
    status, messages = client.run(command, "driven.log", 300, folder="job")
    assert status == 0, messages
    assert labelled_by(client) == before
    assert_complete(cluster.store.folder / "buckets/labels/driven", expected)


def test_a_stranger_is_turned_away_at_every_door(network: Network, cluster: Cluster) -> None:
    doors = {
        "submits a job": ["ray", "job", "submit", f"--address={cluster.dashboard}", "--", "hostname"],
        "connects": ["python", "-c", f"import ray; ray.init('{cluster.gcs}')"],
        "joins": ["ray", "start", f"--address={cluster.gcs}"],
    }
    stranger = network.add("stranger")
    attempts = {
        f"who {who} {what}": stranger.start(command, f"who {who} {what}", environment=environment)
        for who, environment in STRANGERS.items()
        for what, command in doors.items()
    }
    for attempt, process in attempts.items():
        assert process.wait(300) != 0, attempt
        assert "authentication token" in stranger.read(attempt).lower(), attempt
    status, messages = cluster.client.run(doors["submits a job"], "welcome.log", 300)
    assert (status, "\nhead\n" in messages) == (0, True), messages
