"""A hub id on a cluster: a real HTTP server in the hub's place counts what a node's processes fetch."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from pathlib import Path
from threading import Thread
from time import sleep

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[2]

FETCH = """
from inference.checkpoint import open_checkpoint
from inference.config import ModelConfig
print(open_checkpoint(ModelConfig(name="owner/model", revision="main")).revision)
"""


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Serve a checkpoint's files as `owner/model`; gives the address, and how often the bytes of each file left."""
    sent: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def _answer(self, *, has_body: bool) -> None:
            path = self.path.partition("?")[0]
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
            body, headers = b"", {"X-Repo-Commit": COMMIT}
            if path.startswith("/api/models/owner/model/tree/"):
                body = dumps(
                    [{"type": "file", "path": n, "size": len(b), "oid": _oid(b)} for n, b in files.items()]
                ).encode()
            elif path.startswith("/api/models/owner/model"):
                body = dumps(
                    {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
                ).encode()
            else:
                name = path.rpartition("/")[2]
                body = files[name]
                headers["ETag"] = f'"{_oid(body)}"'
                if has_body:
                    sent[name] += 1
                    sleep(1)  # long enough for the other processes to ask for it too
            self.send_response(HTTPStatus.OK)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if has_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324 - as git does


def test_the_processes_of_one_node_fetch_a_hub_checkpoint_once(single_label: Path, tmp_path: Path) -> None:
    with hub(single_label) as (address, sent):
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", FETCH]
        processes = [
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        answers = [process.communicate(timeout=120)[0] for process in processes]
    assert answers == [f"{COMMIT}\n"] * 3
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted <= sent.keys()
    assert set(sent.values()) == {1}, sent
