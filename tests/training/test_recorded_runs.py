"""--cuda_graph auto: a run with recordings (by a stand-in for CUDA) is the run without, and what stands in the way is told."""

import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from library.kernels.replay import Leaves, Replays
from library.training import network_recipe
from library.training.recording import obstacle
from tests.data.scenes import paint
from tests.kernels.test_replay import Rerun
from tests.tiny_runs import picture_folder, small_run, trained

pytestmark = pytest.mark.usefixtures("models_loaded_once")

RUNS = {
    "bf16 with low-precision copies, text encoder trained": ["--mixed_precision", "bf16"],
    "gradients added up, norms and gates computed twice": ["--gradient_accumulation_steps", "2", "--gradient_checkpointing", "selective"],
    "two sizes": ["--network_train_unet_only", "--enable_bucket", "--min_bucket_reso", "64", "--max_bucket_reso", "128"],
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_recorded_run_is_the_run_to_the_bit(options, tiny_models, tmp_path):
    data = picture_folder(tmp_path / "data", count=2)
    if "--enable_bucket" in options:
        paint(data / "4_thing" / "wide.png", (128, 64), seed=5)
    weights, recorded = {}, {}
    for name in ("plain", "recorded"):
        run = small_run(tiny_models("sd1"), data, tmp_path / name, *options)
        records = {part: Rerun() for part in ("unet_replays", "text_replays")}
        if name == "recorded":
            leaves = Leaves(run.network.leaves(), keeps_gradients=run.accumulation > 1)
            made = {part: Replays(leaves, record) for part, record in records.items()}
            run.parts = replace(run.parts, **made)
        losses = [step.loss for step in trained(run)]
        weights[name] = [*losses, *(parameter.detach().clone() for parameter in run.network.parameters())]
        recorded[name] = [record.recorded > 0 for record in records.values()]
    assert recorded == {"plain": [False, False], "recorded": [True, "--network_train_unet_only" not in options]}
    assert all(torch.equal(one, other) for one, other in zip(weights["plain"], weights["recorded"], strict=True))


def test_nothing_of_a_step_is_left_when_the_next_begins(tiny_models, tmp_path, monkeypatch):
    """Autograd's nodes of an earlier step belong to a stream that a recording must not meet."""
    left, real = [], network_recipe.training_loss

    def watched(*parts):
        assert not any(loss() is not None for loss in left)
        loss, step = real(*parts)
        left.append(weakref.ref(loss))
        return loss, step

    monkeypatch.setattr(network_recipe, "training_loss", watched)
    trained(small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", count=2), tmp_path))
    assert len(left) > 2


def arguments(**changes):
    return SimpleNamespace(**({"gradient_checkpointing": False, "blocks_to_swap": None, "torch_compile": False} | changes))


@pytest.mark.parametrize(
    ("changes", "network", "device", "told"),
    [
        ({}, SimpleNamespace(same_every_step=True), "cpu", "the device is cpu"),
        ({"gradient_checkpointing": True}, SimpleNamespace(same_every_step=True), "cuda", "--gradient_checkpointing selective goes with"),
        ({"blocks_to_swap": 2}, SimpleNamespace(same_every_step=True), "cuda", "--blocks_to_swap"),
        ({"torch_compile": True}, SimpleNamespace(same_every_step=True), "cuda", "--torch_compile"),
        ({}, SimpleNamespace(same_every_step=False), "cuda", "module_dropout"),
        ({}, torch.nn.Linear(1, 1), "cuda", "nothing is known of how torch.nn.modules.linear computes"),
    ],
)
def test_what_stands_in_the_way_is_told(changes, network, device, told):
    assert told in obstacle(arguments(**changes), network, torch.device(device))


def test_a_plain_lora_can_be_recorded():
    assert obstacle(arguments(gradient_checkpointing="selective"), SimpleNamespace(same_every_step=True), torch.device("cuda")) is None


def test_networks_know_whether_their_steps_are_all_the_same(tiny_models, tmp_path):
    data = picture_folder(tmp_path / "data", count=1)
    for options, same in (
        ([], True),
        (["--network_args", "rank_dropout=0.5"], True),
        (["--network_args", "module_dropout=0.5"], False),
        (["--network_module", "networks.dylora"], False),
        (["--network_module", "networks.oft"], False),
    ):
        assert small_run(tiny_models("sd1"), data, tmp_path, *options).network.same_every_step is same


def test_the_option_is_told_to_have_no_effect_on_a_cpu(tiny_models, tmp_path, capsys):
    run = small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", count=1), tmp_path, "--cuda_graph", "auto")
    assert run.parts.unet_replays is None
    assert "--cuda_graph auto has no effect: it is for CUDA, the device is cpu" in capsys.readouterr().err
