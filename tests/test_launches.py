"""A gate: kernel launches and host reads of one training step, counted on fake tensors by bench/count.py, must not rise.

A change that lowers a number should write the lower one here. Full-size models, LoRA of all layers, bf16.
"""

import copy
import functools
import importlib.util
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import layer_by_layer, step
from bench.layer_by_layer import LayerByLayer
from networks.layers import Dropout, lora_module
from networks.targets import Target

NEW_TRANSFORMERS = int(transformers.__version__.split(".")[0]) >= 5
RECORDED = {
    "sd": (2_817 if NEW_TRANSFORMERS else 2_886, {"rank": 16, "size": 512, "unet_only": False}),
    "sdxl": (5_713, {"rank": 32, "size": 1024, "unet_only": True, "cached_text": True}),
}


@pytest.fixture(scope="module")
def count():
    path = Path(__file__).parents[1] / "bench" / "count.py"
    spec = importlib.util.spec_from_file_location("bench_count", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", RECORDED)
def test_a_step_takes_no_more_launches_than_recorded_and_reads_nothing(count, family):
    recorded, settings = RECORDED[family]
    counter = count.count_step(family, batch=1, precision="bf16", with_flops=False, **settings)
    assert counter.counts.host_reads == 0
    assert counter.counts.launches <= recorded, f"{counter.by_operation}"


def test_a_recorded_step_takes_some_fifty_launches_at_any_size(count, monkeypatch):
    monkeypatch.setitem(count.UNETS, "sd", count.UNETS["sd"] | step.TINY["sd"])
    monkeypatch.setattr(count, "CLIP_L", count.CLIP_L | step.TINY_CLIP)
    settings = {"rank": 4, "size": 128, "unet_only": False, "with_flops": False}
    counts = count.count_step("sd", batch=1, precision="bf16", cuda_graph=True, **settings).counts
    assert (counts.launches <= 51, counts.host_reads) == (True, 0)


def test_a_lora_computed_layer_by_layer_takes_twice_the_launches(count):
    create = functools.partial(layer_by_layer.create, 16, unet_only=False)
    settings = {"rank": 16, "size": 512, "unet_only": False, "kernels": False, "create": create}
    counter = count.count_step("sd", batch=1, precision="bf16", with_flops=False, **settings)
    assert counter.counts.launches > 2 * RECORDED["sd"][0]


def test_the_lora_to_compare_with_computes_what_ours_does():
    layers, x = nn.ModuleList([nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1)]), torch.randn(2, 6, 4, 4)
    for layer, values in ((layers[0], x.permute(0, 2, 3, 1)), (layers[1], x)):
        ours, theirs = lora_module(Target("m", "x", layer, ""), 4, 2.0, 1.0, Dropout()), LayerByLayer(copy.deepcopy(layer), 4, 2.0)
        for own, other in ((ours.lora_down, theirs.down), (ours.lora_up, theirs.up)):
            nn.init.normal_(own.weight)
            other.weight.data.copy_(own.weight)
        ours.apply_to()
        torch.testing.assert_close(theirs(values), ours(values))


def test_the_counter_sees_launches_reads_and_views(count):
    with FakeTensorMode(), count.Counter(on_host=[]) as counter:
        x = torch.ones(3, 2)
        (x.t() + 1).sum().item()
    assert (counter.counts.launches, counter.counts.host_reads) == (3, 1)
    assert counter.by_operation == {"ones": 1, "add": 1, "sum": 1}
