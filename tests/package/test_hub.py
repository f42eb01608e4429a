"""Agents on the Hugging Face Hub; its real client talks to a stand-in on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest
import torch
import yaml

from recdqn import load_agent, load_checkpoint
from recdqn.errors import UserError
from recdqn.hub import model_card, pull, push
from recdqn.run.folder import WEIGHTS

pytest.importorskip("huggingface_hub", reason="pip install 'recdqn[hub]'")
pytest.importorskip("safetensors", reason="pip install 'recdqn[hub]'")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """Keeps repositories in memory: makes them, takes commits of small files, and gives files."""

    repos: dict = {}

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"{}", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path = unquote(urlparse(self.path).path)
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer(401, b'{"error": "Invalid username or password."}')
        if path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization') or 'me'}/{made['name']}"
            self.repos.setdefault(name, {"visibility": made.get("visibility")})
            answer = {"url": f"http://{self.headers['Host']}/{name}"}
        elif path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            answer = {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
                ]
            }
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}",
                "commitOid": COMMIT,
            }
            answer["success"] = True
        else:
            return self.answer(404)
        return self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def do_GET(self):
        name, _, rest = unquote(urlparse(self.path).path).strip("/").partition("/resolve/")
        content = self.repos.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            return self.answer(
                404, X_Error_Code="RepoNotFound" if name not in self.repos else "EntryNotFound"
            )
        tag = hashlib.sha1(content).hexdigest()
        return self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The repositories of a stand-in, to which the client is told to go."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(StandIn, "repos", {})
    yield StandIn.repos
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_agent_goes_there_and_back(hub, saved, tmp_path):
    assert push(saved, "me/agent", private=True).endswith("/me/agent")
    assert hub["me/agent"]["visibility"] == "private"
    files = {"README.md", "config.json", "manifest.json", "metrics.json", "policy.safetensors"}
    assert hub["me/agent"].keys() == {"visibility", *files}
    run, expected = pull("me/agent", tmp_path / "agent"), load_checkpoint(saved)
    assert run.cfg == expected.cfg and run.metrics == expected.metrics
    names = {path.name for path in (tmp_path / "agent").iterdir()}
    assert names == files - {"README.md", "policy.safetensors"} | {WEIGHTS}
    theirs, ours = (load_checkpoint(path).policy.state_dict() for path in (tmp_path / "agent", saved))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in ours)
    agent = load_agent(tmp_path / "agent")
    assert agent.act([0.0] * 4, agent.initial_state())[0] in (0, 1)


def test_refusals_are_one_line_and_leave_nothing(hub, saved, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^cannot pull me/none \(.*\): check its name and revision"):
        pull("me/none", tmp_path / "agent")
    push(saved, "me/agent")
    hub["me/agent"]["config.json"] = b'{"env": {"num_envs": 0}}'
    message = r"^me/agent holds no agent that can be used here: me/agent holds .*env.num_envs=0: expected"
    with pytest.raises(UserError, match=message):
        pull("me/agent", tmp_path / "agent")
    hub["me/agent"]["policy.safetensors"] = b"\x80\x04."  # a pickle
    with pytest.raises(UserError, match=r"^cannot pull me/agent \(SafetensorError"):
        pull("me/agent", tmp_path / "agent")
    assert not (tmp_path / "agent").exists()
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        pull("me/agent", saved)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"^cannot push to me/agent \(.*401.*\): log in with 'hf auth login'"):
        push(saved, "me/agent")


def test_the_model_card_says_what_is_recorded(saved):
    run = load_checkpoint(saved)
    manifest = json.loads((saved / "manifest.json").read_text())
    _, front, text = model_card(run, manifest, "me/agent").split("---\n", 2)
    metric = yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == max(sum(row["returns"]) / 2 for row in run.metrics)
    for fact in ("CartPole-v1", "an LSTM", "256 environment steps", manifest["date"], "recdqn pull me/agent"):
        assert fact in text
