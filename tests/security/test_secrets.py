"""Keys and tokens stay out of everything a run writes, and files go to the hub only where that was asked for."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from library.saving.header import read_metadata
from library.saving.hub_folder import HubFolder
from library.training import network_recipe, settings
from library.training.trackers import logged_config
from tests.tiny_runs import arguments, picture_folder, prepared

ROOT = Path(__file__).parents[2]
KEY, TOKEN = "wandb-key-0123456789", "hf_token_0123456789"
SECRETS = {"wandb_api_key": KEY, "huggingface_token": TOKEN}
pytestmark = pytest.mark.usefixtures("models_loaded_once")


def test_nothing_that_a_run_writes_holds_a_key(tiny_models, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    data, out = picture_folder(tmp_path / "data", count=1), tmp_path / "out"
    options = {"save_state": True, "logging_dir": tmp_path / "logs", "log_config": True, "max_train_steps": 1, "train_batch_size": 1}
    argv = arguments(tiny_models("sd1"), data, out, **options, **SECRETS)
    monkeypatch.setattr(sys, "argv", ["train_network.py", *argv])
    network_recipe.train(prepared("sd", argv))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("events.out" in path.name for path in files) and (out / "lora-state" / "run.json") in files
    written = [path.read_bytes() for path in files] + [str(read_metadata(out / "lora.safetensors")).encode()]
    shown = [caplog.text, *capfd.readouterr(), *sys.argv]
    for secret in (KEY, TOKEN):
        assert not any(secret.encode() in content for content in written)
        assert not any(secret in text for text in shown)


def test_what_trackers_are_told_and_config_files_hold_has_no_key(tmp_path):
    assert not {KEY, TOKEN} & set(logged_config({"learning_rate": 1.0, **SECRETS}).values())
    typed = [f"--{name}={value}" for name, value in SECRETS.items()]
    argv = [sys.executable, "train_network.py", "--output_config", "--config_file", str(tmp_path / "c.toml"), "--network_dim", "4", *typed]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    text = (tmp_path / "c.toml").read_text() + done.stdout + done.stderr
    assert "network_dim = 4" in text and KEY not in text and TOKEN not in text


@pytest.mark.skipif(sys.platform != "linux", reason="process listings are hidden on Linux only")
def test_the_list_of_processes_shows_no_key():
    program = """
import sys
from pathlib import Path
from library.args.privacy import hide_secrets
hide_secrets({"huggingface_token": sys.argv[1].partition("=")[2]})
print(sys.argv[1], Path("/proc/self/cmdline").read_bytes().split(b"\\0")[3].decode())
"""
    done = subprocess.run([sys.executable, "-c", program, f"--t={TOKEN}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--t=" + "*" * len(TOKEN)] * 2


def test_no_connection_is_opened_to_a_hub_nobody_asked_for(monkeypatch):
    from argparse import Namespace

    monkeypatch.setattr("library.training.settings.HubUpload", lambda *args: pytest.fail("an upload was begun"))
    args = Namespace(huggingface_repo_id=None, huggingface_token=TOKEN, huggingface_repo_visibility="public", async_upload=True)
    assert settings.hub_upload(args, Namespace(is_main_process=True)) is None


@pytest.mark.parametrize("address", ["me/x/../../etc", "me/x/a/../../../b", "me/x/..\\..\\etc"])
def test_a_state_on_the_hub_cannot_lie_outside_its_repository(address):
    with pytest.raises(ValueError, match="owner/name/folder"):
        HubFolder.of(address)


def test_names_of_previews_and_of_the_record_come_from_no_prompt():
    from library.training.preview_prompts import read_preview_prompts
    from library.training.previews import _file_name

    path = ROOT / "tests" / "security" / "prompts.json"
    (prompt,) = read_preview_prompts(path, default_size=(64, 64), samplers=["ddim"])
    name = _file_name("lora", "000001", prompt)
    assert json.loads(path.read_text())[0]["prompt"].startswith("../") and Path(name).name == name and ".." not in name
