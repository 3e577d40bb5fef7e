"""cluster.yaml says what it should, and Ray's launcher accepts it."""

import ast
import json
import re
import shlex
import subprocess
import tomllib
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from jobs.config import load_job
from jobs.resources import resolve_resources

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
CLUSTER: dict[str, Any] = yaml.safe_load(TEXT)
TYPES: dict[str, Any] = CLUSTER["available_node_types"]
WORKERS = {name: TYPES[name] for name in ("gpu", "cpu")}


def test_ray_up_accepts_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: PLC0415 - ray is dear

    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(CLUSTER)
    prepared = prepare_config(yaml.safe_load(TEXT))
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == TYPES.keys()  # Ray's defaults bring no type of their own


def test_two_names_are_to_be_filled_in_and_no_more() -> None:
    values = re.sub(r"(^|\s)#.*", "", TEXT)
    assert re.findall(r"\b[A-Z]+_PROFILE\b|YOUR|TODO|<\w+>|XXX", values) == ["HEAD_PROFILE", "WORKER_PROFILE"]
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in TYPES.items()}
    assert profiles == {"head": "HEAD_PROFILE", "gpu": "WORKER_PROFILE", "cpu": "WORKER_PROFILE"}


def test_the_head_is_on_demand_and_has_nothing_that_a_predictor_or_a_tokenizer_could_take() -> None:
    assert CLUSTER["head_node_type"] == "head"
    assert (TYPES["head"]["resources"]["CPU"], "GPU" in TYPES["head"]["resources"]) == (0, False)
    assert "InstanceMarketOptions" not in TYPES["head"]["node_config"]


def test_workers_are_spot_machines_that_come_when_needed_and_go_when_idle() -> None:
    assert WORKERS.keys() | {"head"} == TYPES.keys()
    assert [worker["min_workers"] for worker in WORKERS.values()] == [0, 0]
    spot = {"MarketType": "spot"}
    assert [worker["node_config"]["InstanceMarketOptions"] for worker in WORKERS.values()] == [spot, spot]
    assert [worker["resources"].get("GPU", 0) for worker in WORKERS.values()] == [1, 0]
    assert CLUSTER["idle_timeout_minutes"] == 5
    assert all(10**9 < node["resources"]["object_store_memory"] < 16 * 10**9 for node in TYPES.values())


def test_the_dashboard_is_on_loopback_and_every_ray_asks_for_the_token() -> None:
    starts = [CLUSTER["head_start_ray_commands"], CLUSTER["worker_start_ray_commands"]]
    assert [commands[0] for commands in starts] == ["ray stop", "ray stop"]
    (head,), (worker,) = (commands[1:] for commands in starts)
    assert head.split().count("--dashboard-host=127.0.0.1") == head.count("--dashboard") == 1
    assert "--dashboard" not in worker
    assert [command.count("; RAY_AUTH_MODE=token ray start ") for command in (head, worker)] == [1, 1]
    mounted = CLUSTER["file_mounts"]["~/.ray/auth_token"]
    assert mounted == "~/.ray/auth_token"


def test_every_machine_installs_what_is_pinned() -> None:
    install = "cd ~/shardlabel && python -m pip install --constraint constraints.txt '.[cluster]'"
    common, gpu = CLUSTER["setup_commands"], TYPES["gpu"]["worker_setup_commands"]
    for commands in (gpu, CLUSTER["worker_setup_commands"], CLUSTER["head_setup_commands"]):
        assert commands.count(install) == 1
    # What a type has of its own stands for all others, so nothing of the common ones may be missing there.
    assert gpu[: len(common)] == common
    assert "worker_setup_commands" not in TYPES["cpu"]
    assert not [command for command in gpu if "whl/cpu" in command]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert (extras["cluster"], pins["ray"]) == (["ray[data,default]"], metadata.version("ray"))
    assert set(re.findall(r"(\S+)==", TEXT)) == {"uv", "boto3"}  # no second place for a version that is pinned


def test_the_commands_of_the_docs_are_those_of_ray_and_of_the_pins() -> None:
    from ray.scripts.scripts import cli  # noqa: PLC0415 - ray is dear

    text = (ROOT / "docs" / "cluster.md").read_text()
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    assert set(re.findall(r"boto3==\S+", blocks + TEXT)) == {"boto3==1.44.8"}
    lines = re.findall(r"\bray ((?:up|down|dashboard|exec|job|get-auth-token)\b.*)", blocks)
    assert len(lines) == 7
    for line in lines:
        words = line.partition(" -- ")[0].split()
        command: click.Command = cli
        while words and isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def entrypoints() -> dict[str, str]:
    """What a shell on the head is given as the job, by who gives it."""
    folder = ROOT / "docs" / "cluster"
    job = yaml.safe_load((folder / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    text = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", "")
    (submitted,) = re.findall(r"\$ ray job submit .* -- (.*)", text)
    names = {
        target.id: node.value
        for node in ast.parse((folder / "airflow_dag.py").read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        # Two shells read this one: that of the user, and then what `ray job submit` quotes again.
        "ray job submit": shlex.join(shlex.split(submitted)),
        "KubeRay, over HTTP": job,
        "KubeRay, from a pod": shlex.join(shlex.split(job)),
        "Airflow": ast.literal_eval(names["ENTRYPOINT"]),
    }


@pytest.mark.parametrize("who", ["ray job submit", "KubeRay, over HTTP", "KubeRay, from a pod", "Airflow"])
def test_every_job_asks_for_gpus_that_are_not_there_yet(who: str, tmp_path: Path) -> None:
    printed = subprocess.run(
        ["/bin/sh", "-c", f"shardlabel() {{ printf '%s\\n' \"$@\"; }}; {entrypoints()[who]}"],
        capture_output=True,
        text=True,
        check=True,
    )
    command, _, *words = printed.stdout.splitlines()
    (tmp_path / "job.yaml").write_text("{input: {path: in}, output: {path: out}, model: {name: m}}")
    run = load_job(tmp_path / "job.yaml", [word for word in words if word.startswith("run.")]).run
    asked = resolve_resources(run, [])
    assert command == "run"
    assert (asked.min_actors, asked.max_actors, asked.gpus_per_actor) == (1, TYPES["gpu"]["max_workers"], 1.0)
