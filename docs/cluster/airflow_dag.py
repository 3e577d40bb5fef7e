"""An Airflow DAG that labels the new shards of every night on a Ray cluster that is already there.

Needs `ray[default]==2.60.0` beside Airflow 3, and in the workers' environment RAY_API_SERVER_ADDRESS (the dashboard,
http://HOST:8265), RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; and job.yaml, with the modules that it names, in the folder
JOBS beside this file, which Ray takes to the cluster. A run of Airflow that is lost, retried or started twice finds the
job that it submitted by its name: the logical date and the attempt.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

JOBS = Path(__file__).parent / "shardlabel-jobs"
# For a cluster that starts at no GPU, where auto would not do. A shell reads it.
ENTRYPOINT = "shardlabel run job.yaml --max-seconds 14400 run.gpus_per_actor=1 run.num_actors='{min: 1, max: 16}'"
WRONG_REQUEST, OUT_OF_TIME = 2, 3  # exit statuses of `shardlabel run`


@dag(schedule="0 1 * * *", start_date=datetime(2026, 11, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def shardlabel() -> None:
    """One task, which holds no worker slot of Airflow while the job runs."""

    @task.sensor(
        mode="reschedule",
        poke_interval=60,
        timeout=timedelta(hours=20),
        retries=5,
        retry_delay=timedelta(minutes=5),
    )
    def label(**context: Any) -> bool:
        from ray.job_submission import JobSubmissionClient

        name = f"shardlabel-{context['logical_date']:%Y%m%dT%H%M%S}"
        return advance(JobSubmissionClient(), name, ENTRYPOINT, context["ti"].try_number)

    label()


def advance(client: Any, name: str, entrypoint: str, try_number: int) -> bool:
    """Look at the night's jobs, submit the next one if it is time; whether everything is labelled.

    Raises:
        AirflowException: the last job failed, and so did one in each of Airflow's tries until now: try again.
        AirflowFailException: the request is wrong, or somebody stopped the job: trying again would be no use.
    """
    jobs = sorted(
        (job for job in client.list_jobs() if (job.submission_id or "").startswith(f"{name}-")),
        key=lambda job: int(job.submission_id.rpartition("-")[2]),
    )
    if jobs and not jobs[-1].status.is_terminal():
        return False
    if jobs and jobs[-1].status == "SUCCEEDED":
        return True
    if jobs and jobs[-1].driver_exit_code != OUT_OF_TIME:
        msg = f"{jobs[-1].submission_id}: {jobs[-1].message}"
        if jobs[-1].status == "STOPPED" or jobs[-1].driver_exit_code == WRONG_REQUEST:
            raise AirflowFailException(msg)
        if sum(job.driver_exit_code != OUT_OF_TIME for job in jobs) >= try_number:
            raise AirflowException(msg)
    client.submit_job(
        entrypoint=entrypoint, submission_id=f"{name}-{len(jobs)}", runtime_env={"working_dir": str(JOBS)}
    )
    return False


shardlabel()
