"""`--resume newest`: the whole state that was saved last, by this run's name."""

import json
from pathlib import Path

import pytest
import torch

from library.saving.state_record import NETWORK, OPTIMIZER, POSITION, RUN
from library.saving.weights import save_tensors
from library.training.newest_state import newest_state


def write(folder: Path, saved_at: float, step: int = 1) -> Path:
    folder.mkdir()
    save_tensors(folder / NETWORK, {"lora": torch.zeros(1)}, None)
    torch.save({"state": {}, "param_groups": []}, folder / OPTIMIZER)
    (folder / POSITION).write_text(json.dumps({"current_epoch": 1, "current_step": step}), encoding="utf-8")
    record = dict.fromkeys(("seed", "dataset_seed", "epoch", "batches_done", "batches_per_epoch", "updates_per_epoch", "processes"), 1)
    record |= {"format": 1, "model": "sd_v1", "optimizer": "AdamW", "global_step": step, "saved_at": saved_at}
    (folder / RUN).write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_the_last_saved_is_taken_not_the_one_of_most_steps(tmp_path):
    write(tmp_path / "lora-state", saved_at=100, step=900)
    newest = write(tmp_path / "lora-step00000002-state", saved_at=200, step=2)
    write(tmp_path / "other-state", saved_at=300)
    assert newest_state(tmp_path, "lora") == newest


def test_without_our_record_the_files_tell_the_time(tmp_path):
    for step in (1, 2):
        (write(tmp_path / f"at-step0000000{step}-state", saved_at=0, step=step) / RUN).unlink()
    assert newest_state(tmp_path, None) == tmp_path / "at-step00000002-state"


@pytest.mark.parametrize("name", [NETWORK, OPTIMIZER, RUN, POSITION])
def test_a_damaged_one_is_passed_over_and_named(name, tmp_path, caplog):
    older = write(tmp_path / "lora-000001-state", saved_at=1)
    newer = write(tmp_path / "lora-000002-state", saved_at=2)
    (newer / name).write_bytes((newer / name).read_bytes()[:10])
    assert newest_state(tmp_path, "lora") == older
    assert str(newer) in caplog.text


def test_one_that_was_about_to_replace_another_counts(tmp_path):
    waiting = write(tmp_path / ".lora-state.whole", saved_at=2)
    write(tmp_path / ".lora-000001-state.unfinished", saved_at=3)
    assert newest_state(tmp_path, "lora") == waiting


def test_where_there_is_none_the_run_begins_anew(tmp_path, caplog):
    assert newest_state(tmp_path / "not there", "lora") is None
    assert "begins at step 0" in caplog.text
