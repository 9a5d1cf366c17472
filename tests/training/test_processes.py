"""Two processes, started as users start them, train as one process does that accumulates two batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from library.training.accelerator import average_gradients
from library.training.run_metadata import Session
from tests.training.options import command_line, write_images
from tests.training.process_worker import train_and_watch

WORKER = Path(__file__).with_name("process_worker.py")
OPTIONS = {
    "network_train_unet_only": True,
    "network_args": "module_dropout=0.4",  # some modules have a gradient in one process only
    "max_train_epochs": 2,
    "lr_scheduler": "linear",
    "resolution": 128,  # at 64 the deepest level has one pixel a group, and the norm of nothing but rounding makes it large
    "optimizer_type": "SGDNesterov",  # unlike Adam it does not make small gradients' rounding large
    "learning_rate": 1.0,
}

SPREAD = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


def launched(folder: Path, runs: list[tuple[dict[str, str], list[str]]]) -> list[list[dict]]:
    """The reports of each run, of two processes under `accelerate launch` that train them in turn. runs: (environment, command line)."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "--num_cpu_threads_per_process=1"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "-1"}
    file = folder / "runs.json"
    file.write_text(json.dumps(runs), encoding="utf-8")
    done = subprocess.run([*launch, str(WORKER), str(folder), str(file)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    of_ranks = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    return [list(of_both) for of_both in zip(*of_ranks, strict=True)]


@pytest.fixture(scope="module")
def pairs(tiny_models, tmp_path_factory):
    """The folder, and the reports of two processes: of a run that saves a state after the third of four steps, in the middle of an
    epoch, of one that goes on from there, of the same with the U-Net spread over both; and of one process that accumulates two batches.
    """
    folder = tmp_path_factory.mktemp("processes")
    data, model = write_images(folder / "data", 4, side=128), tiny_models("sd1")
    whole = command_line(model, data, folder / "pair", save_state=True, save_every_n_steps=3, **OPTIONS)
    resumed = command_line(model, data, folder / "resumed", resume=folder / "pair" / "lora-step00000003-state", **OPTIONS)
    prompts = folder / "prompts.txt"
    prompts.write_text("thing --w 64 --h 64 --s 2 --d 1", encoding="utf-8")  # one: the second process has none to draw
    looks = {"sample_prompts": prompts, "sample_every_n_steps": 2, "gradient_checkpointing": True}
    spread = command_line(model, data, folder / "spread", **looks, **OPTIONS)
    both, rest, shared = launched(folder, [({}, whole), ({}, resumed), (SPREAD, spread)])
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    alone = train_and_watch(command_line(model, data, folder / "alone", gradient_accumulation_steps=2, **OPTIONS))
    return folder, both, rest, shared, alone


def test_two_processes_learn_what_one_does_that_accumulates_two_batches(pairs):
    """Also their epochs, steps and learning rates mean the same, each draws noise of its own, and the batch is told once."""
    _, (first, second), _, _, alone = pairs
    assert first["gradients"] == second["gradients"]
    assert_same_gradients(first, alone)
    assert (first["epochs"], first["rates"], len(first["updates"])) == (alone["epochs"], alone["rates"], len(alone["updates"]))
    steps = [[*one, *other] for one, other in zip(first["images"], second["images"], strict=True)]
    assert steps[:2] == [[*alone["images"][number], *alone["images"][number + 1]] for number in (0, 2)]
    assert first["draws"][0] != second["draws"][0]
    assert "2 images a step: 1 at once x 2 processes x 1 accumulated" in first["header"] and not second["header"]


def test_two_processes_go_on_from_their_state_to_the_same_file(pairs):
    """Each with its own share of the data and its own random numbers."""
    folder, both, rest, _, _ = pairs
    for whole, after in zip(both, rest, strict=True):
        assert (after["images"], after["draws"]) == (whole["images"][3:], whole["draws"][3:])
    assert same_network(folder / "pair", folder / "resumed")


def test_a_unet_spread_over_two_processes_learns_the_same(pairs):
    """As accelerate's FSDP config asks for, with checkpointed blocks, and with previews that one process draws in the middle of it."""
    folder, whole, _, spread, alone = pairs
    assert_same_gradients(spread[0], whole[0])
    assert [report["draws"] for report in spread] == [report["draws"] for report in whole]
    assert [report["held"] for report in whole] == [alone["held"]] * 2
    assert sum(report["held"] for report in spread) == alone["held"] and max(report["held"] for report in spread) < 0.6 * alone["held"]
    assert len(list((folder / "spread" / "sample").glob("*.png"))) == 2


def assert_same_gradients(found: dict, expected: dict) -> None:
    for ours, theirs in zip(torch.tensor(found["gradients"]), torch.tensor(expected["gradients"]), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() > 0  # sums in another order round by 1.5e-6


def same_network(folder: Path, other: Path) -> bool:
    ours, theirs = load_file(folder / "lora.safetensors"), load_file(other / "lora.safetensors")
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class TwoProcesses:
    """Stands for accelerate in the first of two processes; `other` is what the second one sends."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, other: list[float]):
        self.other = torch.tensor(other)

    def reduce(self, flat, reduction):
        assert reduction == "mean"
        return (flat + self.other) / 2


def test_gradients_are_averaged_and_missing_ones_count_as_zero():
    """Gradients of three parameters, then a flag each: the other process has the first two, this one the first."""
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([1.0, 3.0])
    average_gradients(TwoProcesses([3.0, 5.0, 8.0, 0.0, 1.0, 1.0, 0.0]), parameters)
    assert [None if p.grad is None else p.grad.tolist() for p in parameters] == [[2.0, 4.0], [4.0], None]


def test_parameters_that_are_not_trained_are_not_sent():
    parameters = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1), requires_grad=False)]
    parameters[0].grad = torch.tensor([1.0])
    average_gradients(TwoProcesses([3.0, 1.0]), parameters)
    assert parameters[0].grad.item() == 2 and parameters[1].grad is None


@pytest.mark.parametrize("strict_compat", [True, False])
def test_processes_draw_alike_under_strict_compat_only(strict_compat):
    class Process:
        def __init__(self, number):
            self.process_index = number

    draws = []
    for number in range(2):
        session = Session.begin(5)
        session.separate(Process(number), strict_compat)
        draws.append(torch.rand(1).item())
    assert (draws[0] == draws[1]) is strict_compat
