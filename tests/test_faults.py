"""A short fault campaign: a handful of seeded faults in process, through the command that runs the long one."""

import re
import subprocess
import sys

import pytest

from tests.faults.campaign import plan
from tests.faults.kinds import KINDS


def test_a_seed_draws_the_same_faults_again_and_a_longer_campaign_begins_like_a_shorter_one() -> None:
    short, long = (
        [fault for episode in plan(7, number, ["local", "ray"], has_disk=True) for fault in episode]
        for number in (20, 200)
    )
    assert short == long[:20]
    assert {fault.kind for fault in long} == set(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_that_is_killed_starved_and_lied_to_ends_with_the_bytes_of_an_undisturbed_one() -> None:
    command = [sys.executable, "-m", "tests.faults", "--faults", "5", "--seed", "9", "--executor", "local"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (total,) = re.findall(r"^\| all \| \| (\d+) \| .* \| identical \| 0 \|$", result.stdout, flags=re.MULTILINE)
    assert total == "5"
