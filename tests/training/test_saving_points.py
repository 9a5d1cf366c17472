import errno
from pathlib import Path

import pytest

from library.training.saving_points import NotSaved, SavePoints, SaveSettings


def points(folder: Path, written: list, *, num_epochs=4, enabled=True, strict_compat=False, **settings) -> SavePoints:
    def write(path, *, epoch, global_step):
        path.write_text("network")
        written.append((path.name, epoch, global_step))

    save = SaveSettings(output_dir=folder, output_name="lora", extension=".safetensors", **settings)
    return SavePoints(save, write, num_epochs=num_epochs, enabled=enabled, strict_compat=strict_compat)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_epoch_is_saved_under_the_final_name_alone(tmp_path):
    saves = points(tmp_path, [], num_epochs=2, save_every_n_epochs=1)
    saves.after_epoch(1, 10)
    saves.after_epoch(2, 20)
    saves.at_end(20)
    assert names(tmp_path) == ["lora-000001.safetensors", "lora.safetensors"]


def test_only_the_newest_epochs_stay(tmp_path):
    saves = points(tmp_path, [], num_epochs=5, save_every_n_epochs=1, save_last_n_epochs=2)
    for epoch in range(1, 5):
        saves.after_epoch(epoch, epoch)
    assert names(tmp_path) == ["lora-000003.safetensors", "lora-000004.safetensors"]


def test_steps_that_old_stay_and_older_ones_go(tmp_path):
    saves = points(tmp_path, [], save_every_n_steps=3, save_last_n_steps=6)
    for step in range(1, 13):
        saves.after_step(step, 1)
    assert names(tmp_path) == [f"lora-step{step:08d}.safetensors" for step in (6, 9, 12)]


def test_a_step_save_names_the_epoch_it_was_made_in(tmp_path):
    ours, reference = [], []
    points(tmp_path, ours, save_every_n_steps=1).after_step(5, 1)
    points(tmp_path, reference, save_every_n_steps=1, strict_compat=True).after_step(5, 1)
    assert (ours[0][1], reference[0][1]) == (1, 0)


def test_other_processes_write_nothing(tmp_path):
    points(tmp_path, [], enabled=False).at_end(3)
    assert names(tmp_path) == []


class FullDisk:
    """Writes files until `full` is set, then raises what a full disk raises."""

    def __init__(self):
        self.full = False

    def __call__(self, path, *, epoch, global_step):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_text("network")


def on_disk(folder: Path, disk: FullDisk, **settings) -> SavePoints:
    return SavePoints(SaveSettings(output_dir=folder, output_name="lora", extension=".safetensors", **settings), disk, num_epochs=9)


def test_a_save_that_fails_keeps_the_older_files_and_lets_the_run_go_on(tmp_path, caplog):
    disk = FullDisk()
    saves = on_disk(tmp_path, disk, save_every_n_epochs=1, save_last_n_epochs=1)
    saves.after_epoch(1, 10)
    disk.full = True
    saves.after_epoch(2, 20)
    assert names(tmp_path) == ["lora-000001.safetensors"]
    assert "No space left" in caplog.text and "MiB are free" in caplog.text
    disk.full = False
    saves.after_epoch(3, 30)
    assert "lora-000003.safetensors" in names(tmp_path)


def test_the_last_save_that_fails_is_an_error(tmp_path):
    disk = FullDisk()
    disk.full = True
    with pytest.raises(NotSaved, match="could not be written"):
        on_disk(tmp_path, disk).at_end(20)
