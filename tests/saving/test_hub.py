"""Uploads to the hub, against a stub of its HTTP interface on this machine."""

import base64
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants, utils

from library.saving.hub import HubSettings, HubUpload
from library.training.positions import Position
from library.training.saving_points import SavePoints, SaveSettings
from library.training.state_points import StatePoints, StateSettings


class Hub(ThreadingHTTPServer):
    """Knows repositories, takes commits of small files, and refuses every commit while `broken`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories, self.files, self.tokens, self.broken = {}, {}, set(), False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *words):
        """Nothing: the console is for the tests."""

    def answer(self, status, value=None):
        body = json.dumps(value or {}).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name = self.path.partition("/models/")[2].partition("?")[0]
        self.answer(200 if name in self.server.repositories else 404, {"id": name, "private": True})

    def do_POST(self):
        body = self.body()
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name, private = f"{wanted['organization']}/{wanted['name']}", wanted.get("private", wanted.get("visibility") == "private")
            self.server.repositories[name] = private
            self.answer(200, {"url": f"{self.server.address}/{name}"})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path and not self.server.broken:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.answer(200, {"commitUrl": f"{self.server.address}/owner/name/commit/1", "commitOid": "1" * 40})
        else:
            self.answer(400, {"error": "no commits today"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


def forget_sessions() -> None:
    """Connections that remember whether the hub may be asked at all; older and newer packages name this differently."""
    for name in ("reset_sessions", "close_session"):
        getattr(utils, name, lambda: None)()


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget_sessions()
    yield server
    forget_sessions()
    server.shutdown()
    server.server_close()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"weights")
    return path


def upload_to(**options) -> HubUpload:
    return HubUpload(HubSettings("owner/name", token="hf_secret", **options))


@pytest.mark.parametrize("folder, place", [("", "lora.safetensors"), ("trained/today/", "trained/today/lora.safetensors")])
def test_a_saved_file_arrives_in_its_folder(hub, saved, folder, place):
    upload_to(folder=folder).file(saved)
    assert hub.files == {place: b"weights"} and hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("private", [True, False])
def test_a_missing_repository_is_created_before_the_training(hub, private):
    upload_to(private=private).check()
    assert hub.repositories == {"owner/name": private}


def test_an_existing_repository_stays_as_it_is(hub):
    hub.repositories["owner/name"] = "as it was"
    upload_to().check()
    assert hub.repositories["owner/name"] == "as it was"


def test_a_folder_arrives_with_its_files(hub, tmp_path):
    state = tmp_path / "lora-state"
    state.mkdir()
    (state / "train_state.json").write_bytes(b"{}")
    upload_to().folder(state)
    assert hub.files == {"lora-state/train_state.json": b"{}"}


def test_a_failed_upload_is_told_and_ends_nothing(hub, saved, caplog):
    hub.broken = True
    upload_to().file(saved)
    assert "uploading lora.safetensors to owner/name failed, the training goes on" in caplog.text and "hf_secret" not in caplog.text


def test_a_hub_out_of_reach_is_warned_of_before_the_training(hub, monkeypatch, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
    upload_to().check()
    assert "--huggingface_repo_id owner/name: Cannot reach" in caplog.text


def test_background_uploads_are_all_there_when_the_run_has_ended(hub, tmp_path, caplog):
    """A save after the first epoch and one at the end, both by way of the saving points."""
    caplog.set_level(logging.INFO)
    settings = SaveSettings(tmp_path, "lora", ".safetensors", save_every_n_epochs=1)
    points = SavePoints(
        settings, lambda path, **place: path.write_bytes(b"weights"), num_epochs=2, hub=upload_to(background=True)
    )
    points.after_epoch(1, 10)
    points.at_end(20)
    assert sorted(hub.files) == ["lora-000001.safetensors", "lora.safetensors"]
    assert caplog.text.index("uploaded lora.safetensors") < caplog.text.index("model saved")


def test_a_saved_state_arrives_too(hub, tmp_path):
    def write(folder, position, losses):
        folder.mkdir()
        (folder / "train_state.json").write_bytes(b"{}")

    settings = SaveSettings(tmp_path, "lora", ".safetensors")
    states = StatePoints(settings, StateSettings(at_end=True), write, num_epochs=1, upload=upload_to().folder)
    states.at_end(Position(1, 1, 1), lambda: None)
    assert hub.files == {"lora-state/train_state.json": b"{}"}
