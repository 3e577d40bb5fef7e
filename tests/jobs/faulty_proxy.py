"""A proxy between a job and its store that misbehaves as a test says: one function decides for each request."""

import contextlib
import http.client
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["503", "reset", "reset after", "cut", "stall", "hold"]
"""Refuse; hang up before the store sees the request; after it did, its answer lost; halfway through the answer; answer
late; send half of the request on and wait until the client is gone."""

STALL_SECONDS = 4.0
"""More than the 3 s without a byte after which the AWS SDK gives a request up."""


@dataclass(frozen=True, slots=True)
class Request:
    """The `number`-th request, counted from 0."""

    number: int
    method: str
    path: str

    @property
    def is_change(self) -> bool:
        """Whether it writes or deletes."""
        return self.method in {"PUT", "POST", "DELETE"}


class FaultyProxy(ThreadingHTTPServer):
    """Forwards every request to a local port, except as `decide` says; `requests` is what came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: int, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Listen, if nothing else is said, on a free port of the loopback."""
        super().__init__(address, _Handler)
        self.target = target
        self.decide: Callable[[Request], Fault | None] = lambda _: None
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.holds = threading.Event()
        """Set when a request is held."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def fault_of(self, method: str, path: str) -> Fault | None:
        """Count a request and decide what happens to it."""
        with self.lock:
            request = Request(len(self.requests), method, path)
            self.requests.append(request)
            fault = self.decide(request)
            if fault is not None:
                self.faults.append(fault)
            return fault

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is nobody's mistake here."""


_LISTED = re.compile(rb"<LastModified>([^.<]*)(?:[.]([0-9]*))?Z<")


def _as_aws_writes_it(match: re.Match[bytes]) -> bytes:
    """A listed time with three digits after the point: rclone leaves zeros out, and the AWS SDK then reads 1970."""
    return b"<LastModified>" + match[1] + b"." + (match[2] or b"").ljust(3, b"0") + b"Z<"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer goes in two packets; without this the second waits for the client's delayed ACK of the first, for 40 ms.
    disable_nagle_algorithm = True
    server: FaultyProxy

    def handle_expect_100(self) -> bool:
        """Ask for no body where none comes: a `100 Continue` and the answer in one packet leave the SDK waiting."""
        return self.headers.get("Content-Length") == "0" or super().handle_expect_100()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT" and self.path.endswith("/"):
            # pyarrow writes a folder as an object after a deletion. S3 keeps such an object, and a listing of files
            # leaves it out; rclone 1.75 makes a file of it, in whose place no folder can be. So it never learns of it.
            self._answer(200, [], b"")
            return
        fault = self.server.fault_of(self.command, self.path)
        if fault == "503":
            self._answer(503, [("Content-Type", "text/plain")], b"")
            return
        if fault == "reset":
            self._reset()
            return
        if fault == "hold":
            self._hold(body)
            return
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        status, headers, content = self._ask_store(body)
        if fault == "reset after":
            self._reset()
        elif fault == "cut":
            self._answer(status, headers, content, num_sent=len(content) // 2)
            self._reset()
        else:
            self._answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 - http.server's names

    def _ask_store(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        with self._sent(body) as store:
            answer = store.getresponse()
            return answer.status, answer.getheaders(), _LISTED.sub(_as_aws_writes_it, answer.read())

    def _hold(self, body: bytes) -> None:
        with self._sent(body[: len(body) // 2]):
            self.server.holds.set()
            while self.connection.recv(1):
                pass
        self.close_connection = True

    @contextlib.contextmanager
    def _sent(self, body: bytes) -> Iterator[http.client.HTTPConnection]:
        """Send a request on as it came: the signature covers the Host header, which names this proxy."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)) as store:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"}:
                    store.putheader(name, value)
            store.endheaders(body)
            yield store

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, num_sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        # Of a HEAD it is the object's, whose body does not come.
        lengths = [value for name, value in headers if name.lower() == "content-length" and self.command == "HEAD"]
        self.send_header("Content-Length", lengths[0] if lengths else str(len(body)))
        self.end_headers()
        self.wfile.write(body[:num_sent])
        self.wfile.flush()

    def _reset(self) -> None:
        """Hang up with an RST, as a crashed machine's successor or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def faulty_proxy(target: int) -> Iterator[FaultyProxy]:
    """A proxy in front of a local port, for as long as a test wants it."""
    with FaultyProxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


if __name__ == "__main__":
    to, host, port = sys.argv[1:]
    FaultyProxy(int(to), (host, int(port))).serve_forever()
