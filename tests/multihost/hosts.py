"""Hosts with addresses of their own on one Linux kernel, in namespaces that end with the process that made them.

A host is an init process in its own network, PID, mount and host name: it sees no process of another, has its own
/dev/shm, and its own folder as /srv, but no other host's. The other end of its cable is a port of a bridge, in a
namespace too, so nothing of the machine's network changes. What all share: kernel, clock, CPUs, memory, and the rest of
the disk, where the software is.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

LOCAL = Path("/srv")
"""A host's own folder, as its processes see it."""

# Waits for the end of its input, which comes when the process that started it has ended, however it did.
_INIT = """
set -e
mount --bind "$1/$2" /srv
mount -t tmpfs tmpfs "$1"
mount -t tmpfs tmpfs /dev/shm
hostname "$2"
ip link set lo up
echo ready
exec cat
"""


def why_not() -> str | None:
    """What keeps this machine from having hosts; None where nothing does."""
    try:
        command = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "ip", "link"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is missing: unshare is of util-linux, ip of iproute2"
    return (
        None if done.returncode == 0 else f"no namespaces ({done.stderr.strip()}): run as root, or `unshare -r make …`"
    )


class Host:
    """One machine: what runs on it, and its power."""

    def __init__(self, root: Path, name: str, address: str, environment: Mapping[str, str]) -> None:
        """Switch it on; `root/NAME` will be its /srv."""
        self.name, self.address, self.folder = name, address, root / name
        self.environment = dict(environment)
        for folder in ("home", "tmp"):
            (self.folder / folder).mkdir(parents=True)
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        self._power = subprocess.Popen(
            [*unshare, "sh", "-c", _INIT, "init", str(root), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test, which then switches off
        )
        if self._power.stdout is None or self._power.stdout.readline() != b"ready\n":
            msg = f"the host {name} did not start, exit status {self._power.wait()}"
            raise RuntimeError(msg)
        self.pid = int(Path(f"/proc/{self._power.pid}/task/{self._power.pid}/children").read_text())

    def start(
        self, command: Sequence[str], log: str, *, folder: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in a folder of /srv; what it writes goes to a file in the host's folder."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            f"--wdns={LOCAL / folder}",
            "--",
        ]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        home = {"HOME": str(LOCAL / "home"), "TMPDIR": str(LOCAL / "tmp"), "PATH": path}
        with (self.folder / log).open("ab") as file:
            return subprocess.Popen(
                [*enter, *command],
                env={**home, **self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, command: Sequence[str], log: str, seconds: float, *, folder: str = "") -> tuple[int, str]:
        """Run a process to its end: exit status and what it wrote."""
        status = self.start(command, log, folder=folder).wait(seconds)
        return status, self.read(log)

    def read(self, log: str) -> str:
        """What was written to a file in its folder."""
        return (self.folder / log).read_text(errors="replace")

    def switch_off(self) -> None:
        """End it and every process on it at once."""
        self._power.kill()
        self._power.wait()
        for pipe in (self._power.stdin, self._power.stdout):
            if pipe is not None:
                pipe.close()


class Network:
    """Hosts on one bridge, 10.77.0.1 and so on; they are switched off when it is left."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        """Choose the folder of their folders, and the environment of what runs on them."""
        self._root, self._environment = root, environment
        self._stack = ExitStack()
        self._num_hosts = 0

    def __enter__(self) -> Self:
        self._switch = self._power_up("switch", "")
        self._ip("link add bridge type bridge")
        self._ip("link set bridge up")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, name: str) -> Host:
        """A new host, with the next address."""
        self._num_hosts += 1
        host = self._power_up(name, f"10.77.0.{self._num_hosts}")
        self._ip(f"link add name {name} type veth peer name eth0 netns {host.pid}")
        self._ip(f"link set dev {name} master bridge up")
        self._ip(f"address add {host.address}/24 dev eth0", host)
        self._ip("link set eth0 up", host)
        # A gateway that is not there: a host asks which of its addresses leads out of it, and sends nothing.
        self._ip("route add default via 10.77.0.254", host)
        return host

    def cut(self, host: Host) -> None:
        """Pull its cable: packets vanish, and nobody is told."""
        self._ip(f"link set dev {host.name} down")

    def mend(self, host: Host) -> None:
        """Plug it in again."""
        self._ip(f"link set dev {host.name} up")

    def _power_up(self, name: str, address: str) -> Host:
        host = Host(self._root, name, address, self._environment)
        self._stack.callback(host.switch_off)
        return host

    def _ip(self, arguments: str, host: Host | None = None) -> None:
        # Of the namespaces only the network's: `netns PID` is a number of this process's own table.
        enter = ["nsenter", f"--target={(host or self._switch).pid}", "--net", "--"]
        subprocess.run([*enter, "ip", *arguments.split()], check=True, timeout=60)
