"""A disk that fills up in the middle of a run: what was saved stays whole, training goes on, and the end tells what it lost.

On a file system of its own, which only root may mount; where that is not to be had, a limit on the size of files stands for it.
"""

import errno
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress

import pytest

from library.saving.weights import load_tensors
from library.training import network_recipe
from library.training.saving_points import NotSaved
from tests.tiny_runs import picture_folder, small_run

MIB = 2**20


class SmallDisk:
    """A tmpfs. `fill` leaves no room, `empty` gives it back."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast.bin"

    def fill(self):
        with suppress(OSError), open(self.ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    def empty(self):
        self.ballast.unlink(missing_ok=True)


class SmallFiles:
    """No file may be larger than 2 KiB while it is full."""

    def __init__(self, folder):
        self.folder = folder

    def limit(self, most):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def fill(self):
        self.limit(2048)

    def empty(self):
        import resource

        self.limit(resource.RLIM_INFINITY)


@pytest.fixture(params=["mounted", "limited"])
def disk(request, tmp_path):
    """A disk on which what this run saves fits, until it is filled."""
    if sys.platform != "linux":
        pytest.skip("neither a tmpfs nor a limit on the size of files on this system")
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited":
        assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
        disk = SmallFiles(folder)
        yield disk
        disk.empty()
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def started(disk, tiny_models, tmp_path):
    """A run of four steps that saves, draws and logs at each, all on the disk, which is full from step 2 on."""
    (tmp_path / "prompts.txt").write_text("thing --w 64 --h 64 --s 1", encoding="utf-8")
    options = ["--save_every_n_steps", "1", "--save_state"]
    options += ["--sample_every_n_steps", "1", "--sample_prompts", str(tmp_path / "prompts.txt")]
    options += ["--logging_dir", str(disk.folder / "logs"), "--log_with", "tensorboard", "--network_train_unet_only"]
    run = small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", 4, repeats=1), disk.folder / "out", *options)
    run.update_watchers.append(lambda update: disk.fill() if update.global_step == 2 else None)
    return run


def test_training_goes_on_without_the_saves_that_found_no_room(disk, tiny_models, tmp_path, capsys):
    run = started(disk, tiny_models, tmp_path)
    run.update_watchers.append(lambda update: disk.empty() if update.global_step == 4 else None)
    network_recipe.train(run)
    out = disk.folder / "out"
    assert {path.name for path in out.glob("lora*.safetensors")} == {
        "lora-step00000001.safetensors", "lora-step00000004.safetensors", "lora.safetensors",
    }  # fmt: skip
    assert all(load_tensors(path) for path in out.rglob("*.safetensors"))
    assert not list(out.rglob(".*"))
    told = capsys.readouterr().err
    for lost in ("lora-step00000002.safetensors could not be written", "lora-step00000003-state could not be written", "MiB are free"):
        assert lost in told
    assert "preview" in told and "training goes on" in told


def test_a_network_that_finds_no_room_at_the_end_is_saved_elsewhere_and_earlier_ones_stay(
    disk, tiny_models, tmp_path, monkeypatch, capsys
):
    """An error still. capsys keeps what is printed out of the file that pytest collects it in, which could not grow either."""
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    run = started(disk, tiny_models, tmp_path)
    with pytest.raises(NotSaved, match=r"lora.safetensors could not be written: .*MiB are free") as told:
        network_recipe.train(run)
    disk.empty()
    assert [path.name for path in (disk.folder / "out").glob("*.safetensors")] == ["lora-step00000001.safetensors"]
    assert (disk.folder / "out" / "lora-step00000001-state" / "run.json").exists()
    if isinstance(disk, SmallDisk):
        (saved,) = elsewhere.glob("*.safetensors")
        assert load_tensors(saved) and f"It is saved as {saved} instead" in str(told.value)
    else:
        assert not list(elsewhere.iterdir()) and "instead" not in str(told.value)


def test_latents_that_find_no_room_stay_in_memory(tiny_models, tmp_path, monkeypatch, capsys):
    from library.data import latent_cache

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(latent_cache, "write_latents", no_room)
    pictures = picture_folder(tmp_path / "data", 4, repeats=1)
    run = small_run(tiny_models("sd1"), pictures, tmp_path, "--cache_latents_to_disk", "--max_train_steps", "1")
    network_recipe.train(run)
    told = capsys.readouterr().err
    assert told.count("No space left on device") == 1 and "stays in memory" in told
    assert (tmp_path / "lora.safetensors").exists()
