"""docs/cluster/airflow_dag.py: its decisions, on jobs of a real Ray; Airflow itself only where it is installed."""

import importlib
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.cluster.conftest import Running

DAG = Path(__file__).parents[2] / "docs" / "cluster" / "airflow_dag.py"


def loaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file as a module; where Airflow is not installed, with something that takes its decorators' arguments."""
    if importlib.util.find_spec("airflow") is None:
        sdk, exceptions = ModuleType("airflow.sdk"), ModuleType("airflow.sdk.exceptions")
        keep: Any = lambda **_: lambda function: function  # noqa: E731
        sdk.dag = lambda **settings: lambda _: lambda: settings  # type: ignore[attr-defined]
        sdk.task = SimpleNamespace(sensor=keep)  # type: ignore[attr-defined]
        exceptions.AirflowException = type("AirflowException", (Exception,), {})  # type: ignore[attr-defined]
        exceptions.AirflowFailException = type("AirflowFailException", (Exception,), {})  # type: ignore[attr-defined]
        for module in (ModuleType("airflow"), sdk, exceptions):
            monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("airflow_dag", DAG)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def outcome(found: Any, client: Any, name: str, entrypoint: str, try_number: int) -> str:
    """What the sensor ends with, poked until it does."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        try:
            if found.advance(client, name, entrypoint, try_number):
                return "labelled"
        except (found.AirflowException, found.AirflowFailException) as error:
            return type(error).__name__
        time.sleep(0.5)
    return "nothing"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_exit_statuses_decide_what_the_night_does(
    cluster: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - ray is dear

    found = loaded(monkeypatch)
    client = JobSubmissionClient(cluster.url, headers={"Authorization": f"Bearer {cluster.token}"})
    # Out of time, then failed, then done: as `shardlabel run` tells it, one status a run. The script goes as job.yaml.
    statuses, found.JOBS = cluster.machine.home / "statuses", tmp_path
    statuses.write_text("3\n1\n0\n")
    (tmp_path / "night.sh").write_text(f"status=$(head -1 {statuses}); sed -i 1d {statuses}; exit $status")
    assert outcome(found, client, "night", "sh night.sh", try_number=1) == "AirflowException"
    assert statuses.read_text() == "0\n"
    assert outcome(found, client, "night", "sh night.sh", try_number=2) == "labelled"
    assert outcome(found, client, "night", "sh night.sh", try_number=3) == "labelled"  # and nothing is submitted
    assert outcome(found, client, "wrong", "exit 2", try_number=1) == "AirflowFailException"
    names = {
        job.submission_id for job in client.list_jobs() if (job.submission_id or "").startswith(("night", "wrong"))
    }
    assert names == {"night-0", "night-1", "night-2", "wrong-0"}


def test_airflow_takes_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("airflow") is None:
        assert "max_active_runs=1" in DAG.read_text()
        pytest.skip("Airflow is not installed: too much for the environment of the tests")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    bag = importlib.import_module("airflow.dag_processing.dagbag").DagBag(str(DAG))
    assert bag.import_errors == {}
    assert bag.dags["shardlabel"].max_active_runs == 1
