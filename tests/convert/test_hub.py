"""A base model by its name on the hub: fetched once through the hub's own interface, here from a server on this machine."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from promptimal_convert.gguf_file import read_header

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serves the small Llama 2 as org/tiny, with files that converting does not need; its address, and the paths that were asked for."""
    files = {file.name: file.read_bytes() for file in models["llama2"].iterdir()}
    files |= {"pytorch_model.bin": b"not wanted", "original/model.safetensors": b"not wanted", "README.md": b"not wanted"}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            if path.startswith("/api/models/org/tiny/tree/"):
                data = json.dumps(
                    [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files.items()]
                ).encode()
            elif path.startswith("/api/models/org/tiny"):
                data = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}).encode()
            elif name in files and path.startswith("/org/tiny/"):
                data = files[name]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def weights(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {name: data[t.offset : t.offset + t.size] for name, t in read_header(path).tensors.items()}


def test_a_name_of_the_hub_is_fetched_once_and_only_what_is_needed(hub, models, tmp_path, run) -> None:
    address, asked = hub
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    done = run("org/tiny", "-o", tmp_path / "from_hub.gguf", env=environment)
    assert done.returncode == 0, done.stderr
    assert "downloading" in done.stderr
    assert not any("pytorch_model" in path or "original" in path or "README" in path for path in asked)
    assert run(models["llama2"], "-o", tmp_path / "from_folder.gguf").returncode == 0
    assert weights(tmp_path / "from_hub.gguf") == weights(tmp_path / "from_folder.gguf")
    asked.clear()
    assert run("org/tiny", "-o", tmp_path / "again.gguf", env=environment).returncode == 0
    assert not asked


def test_a_name_that_the_hub_does_not_know_is_told_in_a_sentence(hub, tmp_path, run) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HUB_CACHE": str(tmp_path / "cache")}
    done = run("org/none", "-o", tmp_path / "out.gguf", env=environment)
    assert done.returncode == 1 and "cannot get org/none from the hub" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.gguf").exists()
