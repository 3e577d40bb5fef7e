"""A real S3 server, `rclone serve s3` over a directory, and the made-up credentials that it takes."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.faulty_proxy import faulty_proxy

ACCESS_KEY = "AKIDMADEUPFORTESTS"
SECRET_KEY = "mAdE/uP+sEcReTfOrTeStS"  # noqa: S105 - with the two characters that trouble URLs

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    # Else the SDK asks the machine's metadata service for its region.
    "AWS_EC2_METADATA_DISABLED": "true",
    # Else uploads are sent in chunks with a checksum behind them, which stores other than AWS often refuse.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}

SERVER_ENVIRONMENT = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}


@dataclass(frozen=True, slots=True)
class Store:
    """A running server; a directory below `root` is a bucket."""

    root: Path
    server_port: int
    port: int
    """Of the proxy before it, which misbehaves never."""

    def uri(self, path: str, port: int | None = None) -> str:
        """`bucket/path` as a URI, through another proxy perhaps."""
        return f"s3://{path}?scheme=http&endpoint_override=127.0.0.1:{port or self.port}"


def server_command(root: Path, address: str) -> list[str]:
    """What serves the directories below `root` as buckets, with `SERVER_ENVIRONMENT`."""
    rclone = str(Path(sys.executable).with_name("rclone"))
    # It caches listings, so what a test adds goes through it: without the cache an upload takes 50 times as long.
    return [rclone, "serve", "s3", str(root), "--addr", address, "--config", ""]


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Store]:
    """Serve the directories below `root` as buckets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (root.parent / "rclone.log").open("wb")
    command = server_command(root, f"127.0.0.1:{port}")
    server = subprocess.Popen(command, env=os.environ | SERVER_ENVIRONMENT, stdout=log, stderr=log)
    try:
        _wait_for(port, server)
        with faulty_proxy(port) as proxy:
            yield Store(root, port, proxy.port)
    finally:
        server.terminate()
        server.wait()
        log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    msg = f"rclone does not answer on port {port}, exit status {server.poll()}"
    raise RuntimeError(msg)
