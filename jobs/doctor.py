"""Everything that would stop or spoil a run, looked at before it: `shardlabel doctor JOB.yaml`.

In: a job. Out: findings, each fine, doubtful or in the way. Nothing is written that stays, no Ray is started, and one
error hides no other: each check runs that has what it needs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.findings import Finding, Notes
from jobs.config import JobConfig
from jobs.doctor_cluster import examine_cluster
from jobs.doctor_input import Source, examine_input
from jobs.doctor_machine import Ground, examine_here, examine_resources
from jobs.doctor_model import Patient, examine_model, try_forward
from jobs.doctor_output import examine_output
from jobs.plan import Plan, check_apart, plan_over
from jobs.storage import locate


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found."""

    findings: tuple[Finding, ...]

    def count(self, level: str) -> int:
        """How many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "num_errors": self.count("error"),
            "num_warnings": self.count("warning"),
            "checks": [finding.as_dict() for finding in self.findings],
        }


def examine(job: JobConfig, *, runs_forward: bool = False) -> Diagnosis:
    """Look at a job's checkpoint, input, output, machine or cluster.

    Args:
        job: which parsed.
        runs_forward: also load the weights and label the first rows in this process.
    """
    notes, names = Notes(), " then ".join(model.name for model in job.models)
    notes.ok("job", f"{job.task.name} with {names}, {job.run.executor} executor")
    alone = [model.model_copy(update={"escalate_below": None}) for model in job.models]
    patients = [examine_model(job, model, notes) for model in alone]
    source = examine_input(job, patients[0], notes)
    is_apart = notes.attempt("output", lambda: _is_apart(job, source))
    plan = _plan(job, patients, source, notes)
    examine_output(job, plan, source, notes, is_apart=bool(is_apart))
    ground = _examine_ground(job, plan, notes)
    if ground is None:
        notes.skip("actors", "what the Predictors would get is known when the cluster answers")
    else:
        examine_resources(job, patients, ground, notes)
    if runs_forward:
        try_forward(job, patients, source.sample, notes)
    return Diagnosis(findings=notes.findings)


def _is_apart(job: JobConfig, source: Source) -> bool:
    check_apart(job.input.path, locate(job.output.path), source.splits)
    return True


def _plan(job: JobConfig, patients: Sequence[Patient], source: Source, notes: Notes) -> Plan | None:
    """The plan of the run, which says of what job an output would be; None when the request has errors."""
    checkpoints = [patient.checkpoint for patient in patients if patient.checkpoint is not None]
    tasks = [patient.task for patient in patients if patient.task is not None and patient.is_whole]
    if not len(checkpoints) == len(tasks) == len(patients) or not source.shards:
        return None
    return notes.attempt("plan", lambda: plan_over(job, checkpoints, tasks, source.shards))


def _examine_ground(job: JobConfig, plan: Plan | None, notes: Notes) -> Ground | None:
    address = job.run.address or os.environ.get("RAY_ADDRESS")
    if job.run.executor == "ray" and address:
        return examine_cluster(job, address, plan, notes)
    return examine_here(job, notes)
