"""The manifests of docs/cluster/ against KubeRay's own schemas, and the commands in them."""

import os
import re
import subprocess
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


STATES = {
    "first night": ["", "", "Running", "Complete SUCCEEDED"],
    "yesterday's is still there": ["Complete SUCCEEDED", "", "Running", "Complete SUCCEEDED"],
    "the pod was replaced": ["Running", "Running", "Complete SUCCEEDED"],
    "the run failed": ["", "Running", "Failed FAILED"],
}


@pytest.mark.parametrize("night", STATES)
def test_the_nightly_script_creates_waits_and_tells_how_it_ended(night: str, tmp_path: Path) -> None:
    """A stand-in for kubectl shows the states of a RayJob one after the other; the last one stays."""
    job = documents("cronjob.yaml")["CronJob"]["spec"]["jobTemplate"]["spec"]
    shell, flags, script = job["template"]["spec"]["containers"][0]["command"]
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in STATES[night]))
    (tmp_path / "kubectl").write_text(f"""#!/bin/sh
cd {tmp_path}
echo "$1" >> calls
[ "$1" = get ] || exit 0
read -r deployment job < states || true
case "$*" in
  *jobDeploymentStatus*) echo "$deployment"; [ $(wc -l < states) = 1 ] || sed -i 1d states;;
  *) echo "$job";;
esac
""")
    (tmp_path / "kubectl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, flags, re.sub(r"sleep \d+", "sleep 0.1", script)], env=environment, timeout=60, check=False
    )
    calls = [call for call in (tmp_path / "calls").read_text().split() if call != "get"]
    assert calls == (["delete", "apply"] if night == "yesterday's is still there" else ["apply"])
    (rule,) = job["podFailurePolicy"]["rules"]
    (failed,) = rule["onExitCodes"]["values"]
    assert done.returncode == (failed if night == "the run failed" else 0)
