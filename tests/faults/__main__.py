"""`python -m tests.faults --faults 200 --seed 7`: run a campaign, print its table, exit 1 if a fault did harm."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import processes
from tests.faults.campaign import Campaign, Fault, plan
from tests.faults.cluster import Nodes
from tests.faults.disk import enter_namespaces
from tests.faults.kinds import EXECUTORS
from tests.faults.table import table


def main(arguments: list[str]) -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=7, help="what they are drawn from (7)")
    parser.add_argument("--only", type=int, help="replay only the episode of the fault with this number")
    parser.add_argument("--executor", choices=EXECUTORS, action="append", help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    enter_namespaces("tests.faults", arguments)
    processes.adopt_orphans()
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    started = time.monotonic()
    try:
        with Nodes(root) as nodes:
            campaign = Campaign(root, nodes)
            has_disk = campaign.disk.is_mounted
            episodes = plan(options.seed, options.faults, options.executor or EXECUTORS, has_disk=has_disk)
            if options.only is not None:
                episodes = [each for each in episodes if options.only in {fault.number for fault in each}]
            print(f"seed {options.seed}: {sum(map(len, episodes))} faults on {len(episodes)} outputs", flush=True)
            faults = [fault for episode in episodes for fault in _play(campaign, episode)]
            campaign.disk.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"\n{table(faults)}\n\n{len(faults)} faults, seed {options.seed}, {time.monotonic() - started:.0f} s")
    return int(any(fault.findings or fault.differences for fault in faults))


def _play(campaign: Campaign, episode: list[Fault]) -> list[Fault]:
    campaign.run_episode(episode)
    for difference in episode[0].differences:
        print(f"faults {episode[0].number} to {episode[-1].number}: {difference}", flush=True)
    for fault in episode:
        for finding in fault.findings:
            print(f"fault {fault.number}: {finding}", flush=True)
    return episode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
