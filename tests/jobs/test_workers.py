"""A job on a cluster that runs already: joined and left as it is, its workers on other nodes than the driver."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from inference.checkpoint import open_checkpoint, weights_digest
from inference.config import ModelConfig
from inference.errors import ModelError
from jobs.config import JobConfig
from jobs.nodes import check_here
from tests.jobs.cluster import Running, running
from tests.jobs.conftest import MakeJob, read_parts

# A cluster, and a driver of its own for each test.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

HOOK = '''"""Logits as they are, and where they were made, once so many processes make some."""
import os
import time
from pathlib import Path

import pyarrow as pa
import ray


class Where:
    fields = [pa.field("where", pa.string())]

    def __call__(self, logits):
        deadline = time.monotonic() + 200
        Path("SEEN", str(os.getpid())).touch()
        while len(list(Path("SEEN").iterdir())) < NUM_PROCESSES and time.monotonic() < deadline:
            time.sleep(0.1)
        names = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY")
        here = {name: os.environ.get(name) for name in names}
        here |= {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "file": __file__}
        return logits, [[str(sorted(here.items()))] * len(logits)]
'''

DRIVER = """
import sys
from jobs.cli import app
try:
    app(prog_name="shardlabel")
finally:
    print(sorted({"torch", "transformers"} & sys.modules.keys()), file=sys.stderr)
"""
"""The command line, and in the end what of two packages the driver has imported."""

UNSHARE = ["unshare", "--mount", "sh", "-c"]
"""A shell whose mounts only it and what it starts can see: another disk than that of the workers."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    """A head that runs nothing, a node for tokenization and one for Predictors."""
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        head = {"num_cpus": 0, "include_dashboard": False}
        with running(Path(folder), head, {"num_cpus": 3}, {"num_cpus": 0, "num_gpus": 2}) as started:
            yield started


def drive(job: JobConfig, folder: Path, cluster: Running, *arguments: str, **environment: str) -> Any:
    """`shardlabel run` in a process of its own, in a folder of its own."""
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    command = [sys.executable, "-c", DRIVER, "run", "job.yaml", *arguments]
    return execute(command, folder, cluster.environment | environment)


def execute(command: list[str], folder: Path, environment: dict[str, str]) -> Any:
    """Run it to its end."""
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the driver is started: the hook's folder, with a file that no worker needs."""
    for name in ("driver", "seen"):
        (tmp_path / name).mkdir()
    hook = HOOK.replace("SEEN", str(tmp_path / "seen"))
    (tmp_path / "driver" / "where.py").write_text(hook.replace("NUM_PROCESSES", "3"))
    (tmp_path / "driver" / "data.bin").write_bytes(bytes(2**20 + 1))
    return tmp_path / "driver"


def job_of(make_job: MakeJob, name: str, **settings: Any) -> JobConfig:
    task = {"options": {"postprocess": "where:Where"}}
    return make_job(name, run={"executor": "ray", **settings}, model={"max_batch_tokens": 2048}, task=task)


def places(output: str) -> list[dict[str, Any]]:
    """What the hook said, once for each of its processes."""
    found = {row["where"] for row in read_parts(output) if row["where"] is not None}
    return [dict(eval(text)) for text in found]  # noqa: S307 - our own hook's


def test_a_run_joins_the_cluster_and_its_hook_and_endpoints_reach_the_workers(
    make_job: MakeJob, folder: Path, cluster: Running
) -> None:
    job = job_of(make_job, "out", gpus_per_actor=0.5, num_actors=3, split_rows=5)
    environment = {"HF_HUB_OFFLINE": "1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_SECRET_ACCESS_KEY": "secret"}
    result = drive(job, folder, cluster, "--address", cluster.address, "--json", **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_rows"] == 45
    assert result.stderr.splitlines()[-1] == "[]", "the driver imported torch or transformers"
    found = places(job.output.path)
    for place in found:
        assert Path(place["file"]).name == "where.py"
        assert not Path(place["file"]).is_relative_to(folder)
        assert not Path(place["file"]).with_name("data.bin").exists()
        assert (place["HF_HUB_OFFLINE"], place["AWS_ENDPOINT_URL"]) == ("1", "http://127.0.0.1:1")
        assert place["AWS_SECRET_ACCESS_KEY"] is None
        assert place["node"] == cluster.nodes[2]
    # three Predictors on two GPUs, all of them at work at once
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in found) in (["0", "0", "1"], ["0", "1", "1"])


def test_a_checkpoint_that_only_the_driver_has_is_an_early_error_that_names_the_nodes(
    make_job: MakeJob, folder: Path, cluster: Running, single_label: Path, multi_label: Path
) -> None:
    other = folder / "model"
    other.mkdir()
    mount = f"mount --bind {single_label} {other}"
    if execute([*UNSHARE, mount], folder, cluster.environment).returncode:
        pytest.skip("no mount namespace may be made here, so that the driver cannot see another disk than the workers")
    job = make_job("out", run={"executor": "ray", "gpus_per_actor": 1}, model={"name": str(other)})
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    command = f'{mount} && exec "$0" -m jobs run job.yaml --address {cluster.address}'
    seen = []
    for content in (None, multi_label):
        for file in content.iterdir() if content else ():
            (other / file.name).write_bytes(file.read_bytes())
        result = execute([*UNSHARE, command, sys.executable], folder, cluster.environment)
        assert result.returncode == 2, result.stderr
        seen.append(result.stderr.splitlines()[-1])
        assert not Path(job.output.path).exists()
    start = "shardlabel: model.name: 2 of the cluster's nodes cannot use the checkpoint: "
    assert all(message.startswith(start) for message in seen), seen
    assert "has no config.json, so it is not a checkpoint" in seen[0]
    assert f"has other files in {other}" in seen[1]


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_joins_later_is_looked_at_by_its_workers(single_label: Path) -> None:
    model = ModelConfig(name=str(single_label))
    here = ray.get_runtime_context().get_node_id()
    look: Any = ray.remote(num_cpus=0)(check_here.__wrapped__)
    right = (model, weights_digest(open_checkpoint(model)))
    ray.get(look.remote((right, (model, "another")), frozenset([here])))
    ray.get(look.remote((right,), frozenset()))
    with pytest.raises(ModelError) as raised:
        ray.get(look.remote((right, (model, "another")), frozenset()))
    error: Any = raised.value
    assert str(error.cause).startswith("model.name: 1 of the cluster's nodes cannot use the checkpoint: ")
    assert f"has other files in {single_label}" in str(error.cause)


def test_a_run_on_a_cluster_without_a_worker_waits_for_the_first(make_job: MakeJob, folder: Path) -> None:
    job = make_job("out", run={"executor": "ray", "gpus_per_actor": 1, "num_actors": {"min": 1, "max": 2}})
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    with (
        tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as root,
        running(Path(root), {"num_cpus": 0, "include_dashboard": False}) as empty,
    ):
        refused = drive(job, folder, empty, "--address", empty.address, "run.num_actors=auto")
        assert refused.returncode == 2, refused.stderr
        assert "run.num_actors: auto is what fits on the nodes of the moment" in refused.stderr
        command = [sys.executable, "-m", "jobs", "run", "job.yaml", "--address", empty.address]
        with subprocess.Popen(command, cwd=folder, env=empty.environment, stderr=subprocess.PIPE, text=True) as driver:
            while not (Path(job.output.path) / "_shardlabel" / "manifest.json").exists():
                assert driver.poll() is None
                time.sleep(0.1)
            empty.add_node(num_cpus=2, num_gpus=2)
            _, messages = driver.communicate(timeout=300)
    assert driver.returncode == 0, messages
    assert len(read_parts(job.output.path)) == 45


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_cluster_that_does_not_answer_is_one_sentence_within_seconds(
    kind: str, make_job: MakeJob, folder: Path, cluster: Running
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        if kind == "closed":
            server.close()
        started = time.monotonic()
        job = make_job(run={"executor": "ray"})
        result = drive(job, folder, cluster, "--address", address)
        seconds = time.monotonic() - started
    assert result.returncode == 1, result.stderr
    *_, message, _ = result.stderr.splitlines()
    assert message.startswith(f"shardlabel: run.address: no Ray cluster answers at {address} (")
    assert seconds < 90  # two minutes and more, where Ray is left to itself
    assert not Path(job.output.path).exists()


def test_a_machine_that_is_no_node_is_told_so(make_job: MakeJob, folder: Path, cluster: Running) -> None:
    job = make_job(run={"executor": "ray"})
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    alone = [UNSHARE[0], "--pid", "--fork", "--mount-proc"]  # Ray looks for its node among the processes
    if execute([*alone, "true"], folder, cluster.environment).returncode:
        pytest.skip("no process namespace may be made here, so that the driver cannot be on another machine")
    command = [*alone, sys.executable, "-m", "jobs", "run", "job.yaml", "--address", cluster.address]
    result = execute(command, folder, cluster.environment | {"RAY_gcs_server_request_timeout_seconds": "5"})
    assert result.returncode == 1, result.stderr
    expected = f"shardlabel: run.address: this machine is no node of the cluster at {cluster.address}; on a machine"
    assert result.stderr.splitlines()[-1].startswith(expected), result.stderr


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("nowhere", "neither HOST:PORT nor auto"),
        ("ray://head:10001", "use `ray job submit"),
        ("http://a:1", "HOST:PORT"),
    ],
)
def test_what_is_no_address_is_a_wrong_request(
    address: str, expected: str, make_job: MakeJob, folder: Path, cluster: Running
) -> None:
    result = drive(make_job(run={"executor": "ray"}), folder, cluster, RAY_ADDRESS=address)
    assert result.returncode == 2, result.stderr
    assert expected in result.stderr.splitlines()[-2]
