"""A small disk of the campaign's own that can be full or read-only: a tmpfs in a mount namespace that dies with it."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

_MARK = "SHARDLABEL_FAULTS_ISOLATED"
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_BYTES = 4 * 2**20


def enter_namespaces(module: str, arguments: list[str]) -> None:
    """Start this program again where it may mount, and where all its processes end with it; or go on without.

    The new process is the first of its PID namespace: the kernel kills whatever is left below it when it ends.
    """
    if _MARK in os.environ:
        return
    try:
        subprocess.run([*_UNSHARE, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        print(f"skipped: disk-full and read-only, which need a mount namespace ({reason.strip()})")
        return
    os.environ[_MARK] = "1"
    sys.stdout.flush()
    os.execvp(_UNSHARE[0], [*_UNSHARE, sys.executable, "-m", module, *arguments])  # noqa: S606 - our own command line


class Disk:
    """A folder on a disk of 4 MiB, where an output takes half of one; a plain folder outside of namespaces."""

    def __init__(self, path: Path) -> None:
        """Mount it."""
        self.path = path
        self.is_mounted = _MARK in os.environ
        path.mkdir()
        if self.is_mounted:
            self._mount("-t", "tmpfs", "-o", f"size={_BYTES}", "campaign")

    def close(self) -> None:
        """Unmount it, so that its folder can be removed; lazily, for a job that still writes."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)  # noqa: S607

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        free = os.statvfs(self.path)
        size = free.f_bavail * free.f_bsize - left
        with (self.path / "filler").open("wb") as file:
            try:
                file.write(b"\0" * max(size, 0))
            except OSError as error:  # the job was faster
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Give the space back."""
        (self.path / "filler").unlink(missing_ok=True)

    def make_read_only(self, *, seconds: float) -> bool:
        """Take writing away for a moment; False if the job always had a file open for writing, which forbids it."""
        for _ in range(100):
            if self._remount("ro"):
                break
            time.sleep(0.01)
        else:
            return False
        time.sleep(seconds)
        return self._remount("rw")

    def _remount(self, mode: str) -> bool:
        return subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], capture_output=True).returncode == 0  # noqa: PLW1510, S607

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.path)], check=True)  # noqa: S607
