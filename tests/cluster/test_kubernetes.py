"""The manifests of docs/cluster/ against KubeRay's own schemas, and the commands in them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "cluster"
SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay"
needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="there is no folder shared/data/kuberay with KubeRay's CRDs beside the repository"
)


def documents(name: str) -> dict[str, Any]:
    """The objects of a manifest by their kinds."""
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / name).read_text())}


@cache
def schema_of(name: str) -> Any:
    """The v1 schema of a CRD, as JSON Schema."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # they have 25,000 lines
    crd = next(document for document in yaml.load_all((SCHEMAS / name).read_text(), loader) if document)
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    return relaxed(version["schema"]["openAPIV3Schema"])


def relaxed(schema: Any) -> Any:
    """Kubernetes' own extension: a quantity or port may be a number or a string."""
    if isinstance(schema, list):
        return [relaxed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    return {key: relaxed(value) for key, value in schema.items()}


def unknown_fields(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Fields that the schema does not know: the API server would drop or refuse them, JSON Schema lets them pass."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from unknown_fields(schema.get("items", {}), item, f"{path}[{i}]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from unknown_fields(schema["properties"][key], item, f"{path}.{key}")
            elif "additionalProperties" not in schema and path != ".metadata":
                yield f"{path}.{key}"


@needs_schemas
@pytest.mark.parametrize(("name", "kind"), [("rayjob", "RayJob"), ("raycronjob", "RayCronJob")])
def test_a_manifest_is_what_kuberay_knows(name: str, kind: str) -> None:
    schema, manifest = schema_of(f"{name}s.yaml"), documents(f"{name}.yaml")[kind]
    jsonschema.Draft7Validator(schema).validate(manifest)
    assert list(unknown_fields(schema, manifest)) == []


@needs_schemas
def test_a_raycronjob_cannot_forbid_overlapping_runs_as_the_docs_say() -> None:
    schema, manifest = schema_of("raycronjobs.yaml"), documents("raycronjob.yaml")["RayCronJob"]
    manifest["spec"]["concurrencyPolicy"] = "Forbid"
    assert list(unknown_fields(schema, manifest)) == [".spec.concurrencyPolicy"]
    assert "no `concurrencyPolicy`" in (ROOT / "docs" / "cluster.md").read_text()


@needs_schemas
def test_the_pod_of_the_cronjob_is_what_kubernetes_knows() -> None:
    pod = documents("cronjob.yaml")["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]
    schema = schema_of("rayjobs.yaml")["properties"]["spec"]["properties"]["submitterPodTemplate"]
    jsonschema.Draft7Validator(schema).validate(pod)
    assert list(unknown_fields(schema, pod)) == []


def test_every_night_runs_what_one_run_runs() -> None:
    job = documents("rayjob.yaml")["RayJob"]["spec"]
    assert documents("raycronjob.yaml")["RayCronJob"]["spec"]["jobTemplate"] == job
    nightly = documents("cronjob.yaml")
    assert nightly["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    assert nightly["Role"]["rules"][0]["resources"] == ["rayjobs"]
    (subject,) = nightly["RoleBinding"]["subjects"]
    pod = nightly["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    names = {nightly["ServiceAccount"]["metadata"]["name"], subject["name"], pod["serviceAccountName"]}
    assert names == {"shardlabel-schedule"}


def test_the_pods_are_those_of_cluster_yaml() -> None:
    spec = documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]
    assert (spec["rayVersion"], spec["authOptions"]) == (metadata.version("ray"), {"mode": "token"})
    head, groups = spec["headGroupSpec"], {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in groups.values()] == [0, 0]
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert [limits[name].get("nvidia.com/gpu") for name in ("gpu", "cpu")] == ["1", None]
    pods = [head["template"]["spec"], *(group["template"]["spec"] for group in groups.values())]
    selectors = [pod["nodeSelector"]["karpenter.sh/capacity-type"] for pod in pods]
    assert selectors == ["on-demand", "spot", "spot"]
    assert {pod["containers"][0]["image"] for pod in pods} == {"IMAGE"}


SLOW_TO_STOP = """
import pathlib, signal, sys, time

started = pathlib.Path({started!r})

def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a run does: the second one kills
    time.sleep({seconds})
    started.write_text("stopped in its own time")
    sys.exit(3)

signal.signal(signal.SIGTERM, stop)
started.touch()
time.sleep(300)
"""


def driver(folder: Path, seconds: int) -> tuple[str, Path]:
    """A command that is to the hook what `shardlabel run` is, and the file that it makes when it has started."""
    (folder / "shardlabel").write_text(SLOW_TO_STOP.format(started=str(folder / "started"), seconds=seconds))
    return f"python {folder / 'shardlabel'} run job.yaml", folder / "started"


def hook(folder: Path) -> str:
    """The preStop hook of the head, for the driver of this folder alone: on this host /proc shows all others too."""
    pod = documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    python, option, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (python, option, script.count("/shardlabel"), script.count("sleep(15)")) == ("python", "-c", 1, 1)
    return str(script.replace("/shardlabel", str(folder / "shardlabel")).replace("sleep(15)", "sleep(0)"))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# A shell that becomes the command, and one that stays above it.
@pytest.mark.parametrize(("shell", "is_asked_before"), [("{}", False), ("{}; exit $?", True)])
def test_the_head_asks_the_run_once_to_stop_and_waits_for_it(
    shell: str,
    is_asked_before: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    command, started = driver(tmp_path, seconds=3)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(["/bin/sh", "-c", shell.format(command)], env=environment) as process:
        wait_for(started)
        if is_asked_before:  # as KubeRay does before it deletes the pods of a RayJob that is deleted
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]) if children else process.pid, signal.SIGTERM)
            time.sleep(0.5)  # its handler is at work now, and a second one would kill it
        subprocess.run([sys.executable, "-c", hook(tmp_path)], check=True, timeout=60)
        assert started.read_text() == "stopped in its own time"
        assert process.wait(10) == 3


ANSWERS = {
    # what kubectl says from one look to the next, the last one for good: jobDeploymentStatus/jobStatus
    "first night": ["", "/", "Initializing/", "Running/RUNNING", "Complete/SUCCEEDED"],
    "yesterday's is still there": ["Complete/SUCCEEDED", "/", "Running/RUNNING", "Complete/SUCCEEDED"],
    "yesterday's was not valid": ["ValidationFailed/", "/", "Running/RUNNING", "Complete/SUCCEEDED"],
    "the pod was replaced": ["Running/RUNNING", "Running/RUNNING", "Complete/SUCCEEDED"],
    "an attempt failed": ["", "Running/RUNNING", "Retrying/FAILED", "Running/RUNNING", "Complete/SUCCEEDED"],
    "no answer for a while": ["", "Running/RUNNING", "no answer", "", "Complete/SUCCEEDED"],
    "no answer at all": ["no answer"],
    "the run failed": ["", "Running/RUNNING", "Failed/FAILED"],
    "no head came": ["", "Initializing/", "Failed/"],
    "somebody stopped it": ["", "Running/RUNNING", "Complete/STOPPED"],
    "it is not valid": ["", "ValidationFailed/"],
}
FAILED = ("the run failed", "no head came", "somebody stopped it", "it is not valid")


@pytest.mark.parametrize("night", ANSWERS)
def test_the_nightly_script_creates_waits_and_tells_how_it_ended(night: str, tmp_path: Path) -> None:
    """A stand-in for kubectl gives the answers one after the other."""
    job = documents("cronjob.yaml")["CronJob"]["spec"]["jobTemplate"]["spec"]
    shell, flags, script = job["template"]["spec"]["containers"][0]["command"]
    (tmp_path / "answers").write_text("".join(f"{answer}\n" for answer in ANSWERS[night]))
    (tmp_path / "kubectl").write_text(f"""#!/bin/sh
cd {tmp_path}
echo "$1" >> calls
[ "$1" = get ] || exit 0
[ "${{*##* }}" = 'jsonpath={{.status.jobDeploymentStatus}}/{{.status.jobStatus}}' ] || exit 64
answer=$(head -n 1 answers)
[ $(wc -l < answers) = 1 ] || sed -i 1d answers
[ "$answer" = "no answer" ] && exit 1
printf %s "$answer"
""")
    (tmp_path / "kubectl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, flags, re.sub(r"sleep \d+", "sleep 0.1", script)], env=environment, timeout=60, check=False
    )
    calls = [call for call in (tmp_path / "calls").read_text().split() if call != "get"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (failed,) = rule["onExitCodes"]["values"]
    if night == "no answer at all":  # the pod has failed, and Kubernetes replaces it
        assert (calls, done.returncode) == ([], 1)
    else:
        assert calls == (["delete", "apply"] if night.startswith("yesterday") else ["apply"])
        assert done.returncode == (failed if night in FAILED else 0)
