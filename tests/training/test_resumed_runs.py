"""A run that goes on from a saved state ends with the same bytes as one that was never interrupted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from library.saving.header import read_metadata
from library.saving.state import read_random_states, read_state
from library.saving.state_record import RunRecord, read_record
from library.training.network_recipe import prepare, train
from tests.conftest import GOLDEN
from tests.golden_workshop import read_command_line

# Three images, so an epoch has two updates, of two batches and of one: five steps are two epochs and a half.
BUCKETS = "--resolution 64 --enable_bucket --min_bucket_reso 64 --max_bucket_reso 128"
PLAIN = f"--network_module networks.lora --network_dim 1 {BUCKETS} --save_state"
FEW_BLOCKS = f"block_dims={','.join('2' if block in (4, 12, 20) else '0' for block in range(25))}"
HARD = (
    f"{PLAIN} --seed 5 --max_train_steps 5 --save_every_n_steps 3 --save_every_n_epochs 1 --gradient_accumulation_steps 2 "
    "--network_dropout 0.3 --caption_dropout_rate 0.3 --shuffle_caption --random_crop --color_aug --flip_aug --max_data_loader_n_workers 2 "
    "--multires_noise_iterations 2 --noise_offset 0.1 --noise_offset_random_strength --learning_rate 1e-2 --lr_scheduler cosine "
    f"--network_args {FEW_BLOCKS} loraplus_lr_ratio=2 rank_dropout=0.2 --scale_weight_norms 1"
)
AVERAGING = (
    f"{PLAIN} --max_train_steps 3 --save_every_n_steps 2 --cache_latents --network_train_unet_only --max_data_loader_n_workers 0 "
    f"--optimizer_type AdamWScheduleFree --learning_rate 1e-2 --network_args {FEW_BLOCKS}"
)


@pytest.fixture(scope="module")
def trained(tiny_models, tmp_path_factory):
    """Call it with options and what --resume names: a folder with what the run saved."""
    root = tmp_path_factory.mktemp("resume")
    data = root / "data" / "1_sks thing"
    data.mkdir(parents=True)
    for name in ("a01", "a04", "a08"):
        for ending in (".png", ".txt"):
            shutil.copyfile(GOLDEN / "dataset" / "train" / "3_sks thing" / (name + ending), data / (name + ending))

    def run(options: str, resume: Path | str | None = None, out: Path | None = None) -> Path:
        out = out or root / f"out{len(list(root.iterdir()))}"
        words = ["--pretrained_model_name_or_path", tiny_models("sd1"), "--train_data_dir", data.parent, "--output_dir", out]
        words += ["--output_name", "lora", *options.split(), *(["--resume", resume] if resume else [])]
        args, family = read_command_line("sd", [str(word) for word in words])
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        train(prepare(args, family))
        return out

    return run


@pytest.fixture(scope="module")
def whole(trained) -> Path:
    return trained(HARD)


@pytest.fixture(scope="module")
def resumed(trained, whole) -> Path:
    """From the middle of the second epoch."""
    return trained(HARD, whole / "lora-step00000003-state")


def assert_same_end(ours: Path, whole: Path) -> None:
    """Weights, optimizer and random states, byte for byte, and where the run stands."""
    assert_same_values(load_file(ours / "lora.safetensors"), load_file(whole / "lora.safetensors"))
    assert_same_values(read_state(ours / "lora-state").optimizer, read_state(whole / "lora-state").optimizer)
    assert_same_values(read_random_states(ours / "lora-state", 0), read_random_states(whole / "lora-state", 0))
    assert remembered(ours) == remembered(whole)


def remembered(folder: Path) -> RunRecord:
    """Where the run stood and what it remembers, but for the list of its saved files."""
    record = read_record(folder / "lora-state")
    assert record.memory["guard"] == {"in_a_row": 0, "skipped": 0, "rollbacks": 0} and record.memory["spikes"]["losses"]
    return replace(record, memory={**record.memory, "saves": None})


def assert_same_values(ours, theirs) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same_values(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same_values(*pair)
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert (ours == theirs) if not hasattr(theirs, "all") else (ours == theirs).all()


def test_from_the_middle_of_an_epoch(resumed, whole):
    assert_same_end(resumed, whole)


def test_a_second_time_from_the_end_of_an_epoch(trained, resumed, whole):
    assert_same_end(trained(HARD, resumed / "lora-000002-state"), whole)


def test_newest_takes_up_a_run_that_was_cut_off_before_the_end_of_its_epoch(trained, whole):
    """The state after step 4, the last of epoch 2, says that the epoch's own save is still to come."""
    record = read_record(whole / "lora-step00000003-state")
    assert not record.epoch_ended and read_record(whole / "lora-000002-state").epoch_ended
    cut_off = trained(HARD.replace("--save_every_n_steps 3", "--save_every_n_steps 2"))
    for name in ("lora.safetensors", "lora-state", "lora-000002.safetensors", "lora-000002-state"):
        path = cut_off / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    trained(HARD, "newest", cut_off)
    assert_same_end(cut_off, whole)
    assert (cut_off / "lora-000002.safetensors").exists()


def test_newest_of_a_finished_run_writes_the_network_that_is_missing(trained, resumed, whole):
    (resumed / "lora.safetensors").unlink()
    trained(HARD, "newest", resumed)
    assert_same_end(resumed, whole)


def test_schedule_free_with_cached_latents_and_a_seed_that_was_not_given(trained):
    whole = trained(AVERAGING)
    assert_same_end(trained(AVERAGING, whole / "lora-step00000002-state"), whole)


def test_steps_epochs_and_file_names_go_on_counting(resumed, whole):
    assert {path.name for path in resumed.iterdir()} == {
        "lora-000002.safetensors", "lora-000002-state", "lora.safetensors", "lora-state",
    }  # fmt: skip
    for name in ("lora-000002.safetensors", "lora.safetensors"):
        ours, theirs = read_metadata(resumed / name), read_metadata(whole / name)
        assert {key for key in theirs if ours.get(key) != theirs[key]} <= {
            "ss_session_id", "ss_training_started_at", "ss_training_finished_at", "modelspec.date",
        }  # fmt: skip
    assert json.loads((resumed / "lora-000002-state" / "train_state.json").read_text()) == {"current_epoch": 2, "current_step": 4}
