"""The peers' own virtual environments: made once from `peers/requirements/`.

The same torch and transformers as ours everywhere; pyarrow is what the peer allows (Daft wants an older one).
"""

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.catalog import ENVIRONMENTS, PEERS, PEERS_FOLDER
from benchmarks.workloads import ROOT


def install(peers: list[str]) -> None:
    """Install what the peers need; one that cannot be installed is left out, and the tables say so."""
    names = sorted({PEERS[peer].environment for peer in peers} - {None}, key=str)
    for name in filter(None, names):
        _install(ENVIRONMENTS / name, PEERS_FOLDER / "requirements" / f"{name}.txt")


def _install(folder: Path, requirements: Path) -> None:
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == requirements.read_text():
        return
    print(f"installing {requirements.stem} into {folder.relative_to(ROOT)}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(folder / "bin" / "pip"), "install", "--quiet", "--requirement", str(requirements)]
    if subprocess.run(command, check=False).returncode:
        print(f"{requirements.stem} cannot be installed; its peers are not measured", file=sys.stderr)
        (folder / "bin" / "python").unlink(missing_ok=True)
        return
    done.write_text(requirements.read_text())
