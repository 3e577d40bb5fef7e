"""A machine of cluster.yaml's cluster: a home directory, filled and set up as Ray's launcher does it over ssh."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.test_cluster_yaml import CLUSTER, ROOT


class Machine:
    """A home directory in which the launcher's commands run."""

    def __init__(self, home: Path, laptop: Path) -> None:
        """Copy what cluster.yaml mounts from the repository, and from the home directory of who runs `ray up`."""
        self.home = home
        for remote, local in CLUSTER["file_mounts"].items():
            source = laptop / local.removeprefix("~/") if local.startswith("~") else ROOT / local
            target = home / remote.removeprefix("~/")
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        return subprocess.run(
            self._words(command), env=self._environment(environment), capture_output=True, text=True, check=False
        )

    @contextmanager
    def running(self, command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on until it is no longer needed."""
        with (self.home / "output.txt").open("a") as output:
            process = subprocess.Popen(
                self._words(command),
                env=self._environment(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)

    def lend_packages(self) -> None:
        """The packages of this Python, so that a second torch need not be installed; not the package under test."""
        lent = self.home / "lent"
        lent.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "shardlabel" not in path.name and not path.name.startswith("pip"):
                (lent / path.name).symlink_to(path)
        (site,) = self.home.glob("env/lib/python*/site-packages")
        (site / "lent.pth").write_text(f"{lent}\n")
        script = (Path(sys.executable).parent / "ray").read_text().partition("\n")[2]
        (self.home / "env/bin/ray").write_text(f"#!{self.home}/env/bin/python\n{script}")
        (self.home / "env/bin/ray").chmod(0o755)

    @staticmethod
    def _words(command: str) -> list[str]:
        from ray.autoscaler._private.command_runner import _with_interactive  # noqa: PLC0415 - ray is dear

        return ["sh", "-c", " ".join(_with_interactive(command))]  # type: ignore[no-untyped-call]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
        return kept | {"HOME": str(self.home), "UV_PYTHON_DOWNLOADS": "never"} | more
