"""Saved states are put back exactly, those of accelerate are read, and one that does not fit is refused with the way out."""

import json
import os
import random
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from library.args.parser import default_values, setup_parser
from library.files import begin_folder, finish_folder, unfinished_folder
from library.optim.lr_schedulers import build_lr_scheduler
from library.optim.optimizers import OPTIMIZERS, build_optimizer
from library.saving.hub_folder import HubFolder
from library.saving.state import write_random_states, write_state
from library.saving.state_record import RunRecord
from library.training import resuming
from library.training.deciding_options import deciding_options
from library.training.positions import Position
from library.training.random_states import random_states
from library.training.saving_points import NotSaved
from library.training.state_writer import gathered, state_writer

ON_CPU = SimpleNamespace(scaler=None, process_index=0, num_processes=1)
RATE = {name: 1.0 for name in OPTIMIZERS if name.startswith(("dadapt", "prodigy"))}
BEGINNING = Position()


def options(**changed) -> Namespace:
    return Namespace(**default_values(setup_parser("train_network")) | {"network_dim": 4, "optimizer_type": "AdamW"} | changed)


def network(rank: int = 4) -> nn.Module:
    """A pair of layers, large enough for the 8-bit optimizers to use 8 bits."""
    torch.manual_seed(0)
    return nn.ModuleDict({"lora_unet_down": nn.Linear(64, 64), "lora_unet_up": nn.Linear(64, rank)})


def optimizing(net: nn.Module, optimizer_type: str = "AdamW", fused: bool = True) -> SimpleNamespace:
    """With a linear schedule over ten steps, or the optimizer's own."""
    rate = RATE.get(optimizer_type, 1e-2)
    built = build_optimizer(optimizer_type, [], [{"params": list(net.parameters())}], learning_rate=rate, fused=fused)
    name = built.lr_scheduler if optimizer_type == "adafactor" else "linear"
    hooks = SimpleNamespace(weights_changed=lambda: None)
    return SimpleNamespace(built=built, lr_scheduler=build_lr_scheduler(built, name=name, total_steps=10), hooks=hooks)


def train(net: nn.Module, one: SimpleNamespace, steps: range) -> None:
    for step in steps:
        for number, parameter in enumerate(net.parameters()):
            generator = torch.Generator().manual_seed(100 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        one.built.optimizer.step()
        one.lr_scheduler.step()


def save(folder: Path, net: nn.Module, one: SimpleNamespace, args: Namespace, accelerator: SimpleNamespace = ON_CPU) -> Path:
    record = RunRecord(
        seed=5, dataset_seed=6, epoch=1, batches_done=3, global_step=3, batches_per_epoch=10, updates_per_epoch=10, processes=1,
        model="sd_v1", optimizer=one.built.class_name, losses={"losses": [1.0], "total": 1.0}, options=deciding_options(args),
    )  # fmt: skip
    begin_folder(folder)
    write_random_states(unfinished_folder(folder), 0, random_states())
    write_state(unfinished_folder(folder), gathered(net, one, accelerator), epoch=1, global_step=3, record=record)
    finish_folder(folder)
    return folder


def weights(net: nn.Module) -> list[list[float]]:
    return [parameter.detach().double().flatten().tolist() for parameter in net.parameters()]


@pytest.fixture
def state(tmp_path) -> Path:
    """A state after three steps of AdamW."""
    net = network()
    one = optimizing(net)
    train(net, one, range(3))
    return save(tmp_path / "lora-state", net, one, options())


def restore(folder: Path, net: nn.Module, one: SimpleNamespace, accelerator: SimpleNamespace = ON_CPU, **changed) -> None:
    args = options(resume=str(folder), **changed)
    resuming.restore(resuming.saved_run(args, "sd_v1"), args, BEGINNING, net, one, accelerator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_every_optimizer_goes_on_exactly(name, dtype, tmp_path):
    pytest.importorskip(OPTIMIZERS[name].split(".")[0])
    whole = network().to(dtype)
    one = optimizing(whole, name)
    train(whole, one, range(3))
    folder = save(tmp_path / "state", whole, one, options(optimizer_type=name))
    train(whole, one, range(3, 5))
    resumed = network().to(dtype)
    other = optimizing(resumed, name)
    restore(folder, resumed, other, optimizer_type=name)
    train(resumed, other, range(3, 5))
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("fused", [True, False])
def test_how_a_step_is_computed_is_a_matter_of_the_run_and_not_of_the_state(fused, tmp_path):
    """States of sd-scripts are not fused, and those of the two forms go on from each other with the same numbers but for rounding."""
    whole, resumed = network(), network()
    one, other = optimizing(whole, fused=not fused), optimizing(resumed, fused=fused)
    train(whole, one, range(3))
    folder = save(tmp_path / "state", whole, one, options())
    restore(folder, resumed, other)
    assert bool(other.built.optimizer.param_groups[0]["fused"]) is fused
    for net, optimization in ((whole, one), (resumed, other)):
        train(net, optimization, range(3, 5))
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_fp16_gradient_scale_goes_on(tmp_path):
    """Also how many steps it has stood: a scaler that begins anew leaves out the first steps while it looks for its scale."""

    def with_scaler() -> SimpleNamespace:
        return SimpleNamespace(scaler=torch.amp.GradScaler("cpu", growth_interval=4), process_index=0, num_processes=1)

    net = network()
    one, whole = optimizing(net), with_scaler()
    for overflows in (True, False, False):
        whole.scaler.scale(net["lora_unet_up"].weight.sum() * (float("inf") if overflows else 1.0)).backward()
        whole.scaler.step(one.built.optimizer)
        whole.scaler.update()
        one.built.optimizer.zero_grad()
    folder = save(tmp_path / "state", net, one, options(), whole)
    resumed = with_scaler()
    restore(folder, network(), optimizing(network()), resumed)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    assert resumed.scaler.get_scale() == 2.0**15 and resumed.scaler._get_growth_tracker() == 2


def test_a_state_of_accelerate_is_read(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    whole = network()
    one = optimizing(whole)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(whole, one.built.optimizer, one.lr_scheduler)
    train(whole, one, range(3))
    accelerator.save_state(str(tmp_path / "state"))
    drawn = random.random(), np.random.rand(), torch.rand(1)
    train(whole, one, range(3, 5))
    resumed = network()
    other = optimizing(resumed)
    restore(tmp_path / "state", resumed, other)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    train(resumed, other, range(3, 5))
    assert prepared[0] is whole and weights(resumed) == weights(whole)


def test_old_states_hold_the_network_under_another_name(state):
    torch.save(network().state_dict(), state / "pytorch_model.bin")
    os.remove(state / "model.safetensors")
    net = network()
    nn.init.zeros_(net["lora_unet_up"].weight)
    restore(state, net, optimizing(net))
    assert weights(net) == weights(network())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no model.safetensors and no optimizer.bin; give a folder that --save_state wrote"),
        (lambda folder: os.remove(folder / "optimizer.bin"), "no optimizer.bin; copy it again, or begin anew from its weights with"),
        (lambda folder: cut(folder / "optimizer.bin"), "optimizer.bin is not a whole torch file"),
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is not a whole .safetensors file"),
        (lambda folder: cut(folder / "random_states_0.pkl"), "random_states_0.pkl is not a whole torch file"),
        (lambda folder: cut(folder / "run.json"), "run.json is not whole"),
        (lambda folder: (folder / "run.json").write_text('{"format": 9}'), "run.json is of another version"),
        (lambda folder: (folder / "train_state.json").write_text('{"current_step": "x"}'), "current_step is 'x'"),
    ],
)
def test_a_damaged_state_is_told_before_anything_is_built(state, damage, message):
    damage(state)
    with pytest.raises(ValueError, match="--resume") as refusal:
        resuming.saved_run(options(resume=str(state)), "sd_v1")
    assert message in str(refusal.value)


def test_a_folder_that_holds_states_names_them(state):
    with pytest.raises(ValueError, match="name one of the states in it: lora-state"):
        resuming.saved_run(options(resume=str(state.parent)), "sd_v1")


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("sdxl_base_v1-0", {}, "it is the state of a LoRA for sd_v1, this run trains one for sdxl_base_v1-0"),
        ("sd_v1", {"network_dim": 8}, "its network is another one (network_dim: 4 there, 8 here): give the options as saved. Or begin"),
        ("sd_v1", {"network_module": "networks.loha"}, "network_module: None there, networks.loha here"),
        ("sd_v1", {"optimizer_type": "SGDNesterov"}, "torch.optim.adamw.AdamW, this run has torch.optim.sgd.SGD: give --optimizer_type"),
    ],
)
def test_a_state_that_cannot_fit_is_told_before_anything_is_built(state, model, changed, message):
    with pytest.raises(ValueError, match="--resume") as refusal:
        resuming.saved_run(options(resume=str(state), **changed), model)
    assert message in str(refusal.value)


def without_record(state: Path) -> Path:
    os.remove(state / "run.json")
    return state


def test_another_rank_is_told_with_both_shapes(state):
    net = network(rank=8)
    with pytest.raises(ValueError, match="lora_unet_up.weight is 4x64 there and 8x64 here"):
        restore(without_record(state), net, optimizing(net))


def test_another_network_is_told_with_a_name_from_each(state):
    net = nn.ModuleDict({"lora_te_down": nn.Linear(64, 64)})
    with pytest.raises(ValueError, match="lora_unet_down.bias is in it, lora_te_down.weight in this run"):
        restore(without_record(state), net, optimizing(net))


def test_another_optimizer_is_told_though_its_settings_are_a_part_of_the_saved_ones(state):
    net = network()
    with pytest.raises(ValueError, match="another one than lion_pytorch.lion_pytorch.Lion: only one of them has amsgrad, eps"):
        restore(without_record(state), net, optimizing(net, "lion"))


def test_another_optimizer_is_told_and_nothing_is_changed(state):
    net = network()
    nn.init.zeros_(net["lora_unet_up"].weight)
    with pytest.raises(ValueError, match="its optimizer is another one than torch.optim.sgd.SGD"):
        restore(without_record(state), net, optimizing(net, "sgdnesterov"))
    assert not net["lora_unet_up"].weight.any()


def test_other_groups_are_told(state):
    net = network()
    one = optimizing(net["lora_unet_up"])
    with pytest.raises(ValueError, match=r"1 groups of \[4\] tensors, this run 1 of \[2\]"):
        restore(without_record(state), net, one)


class Program:
    """A pickle of it runs a command when it is opened."""

    def __reduce__(self):
        return os.mkdir, ("made-by-the-pickle",)


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_a_pickle_that_holds_a_program_is_not_run(state, monkeypatch, name):
    monkeypatch.chdir(state)
    torch.save({"state": Program(), "param_groups": []}, state / name)
    net = network()
    with pytest.raises(ValueError, match="holds more than tensors"):
        restore(state, net, optimizing(net))
    assert not Path("made-by-the-pickle").exists()


def test_changed_options_are_named(state, caplog):
    net = network()
    restore(state, net, optimizing(net), min_snr_gamma=5.0)
    assert "min_snr_gamma: None there, 5.0 here" in caplog.text


def test_the_seed_of_the_saved_run_goes_on(state, caplog):
    args = options(resume=str(state), seed=77)
    assert resuming.seed_of(resuming.saved_run(args, "sd_v1"), args) == 5
    assert "--seed 77 is not used" in caplog.text


def test_the_hub_is_asked_for_the_named_folder_only(state, monkeypatch):
    asked = {}

    def snapshot_download(repository, **words):
        asked.update(words, repository=repository)
        return str(state.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    args = options(resume="me/loras/lora-state:v2", resume_from_huggingface=True, huggingface_token="secret")
    assert resuming.saved_run(args, "sd_v1").folder == state
    assert asked == {
        "repository": "me/loras", "repo_type": "model", "revision": "v2", "allow_patterns": "lora-state/*", "token": "secret",
    }  # fmt: skip


@pytest.mark.parametrize("address", ["folder", "me/loras", "me/loras/state:v2:model:more", "me/loras/state:v2:video"])
def test_what_names_no_folder_on_the_hub_is_refused(address):
    with pytest.raises(ValueError, match=r"owner/name/folder\[:revision\[:type\]\]"):
        HubFolder.of(address)


def test_a_folder_on_the_hub_may_be_deep_and_in_a_dataset():
    assert HubFolder.of("me/loras/a/b::dataset") == HubFolder("me/loras", "a/b", None, "dataset")


def test_states_tell_where_they_stand_as_sd_scripts_does(state):
    assert json.loads((state / "train_state.json").read_text()) == {"current_epoch": 1, "current_step": 3}


@pytest.mark.parametrize(("place", "weight", "message"), [("a-file/state", 0.0, "could not be written"), ("state", np.nan, "hold NaN")])
def test_a_state_that_cannot_be_saved_leaves_nothing_behind(tmp_path, place, weight, message):
    (tmp_path / "a-file").touch()
    net = network()
    nn.init.constant_(net["lora_unet_up"].weight, weight)
    accelerator = SimpleNamespace(is_main_process=True, process_index=0, num_processes=1, scaler=None)
    write = state_writer(options(), 5, None, None, None, net, optimizing(net), accelerator, SimpleNamespace(state=dict))
    with pytest.raises(NotSaved, match=message):
        write(tmp_path / place, BEGINNING, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]
