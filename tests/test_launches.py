"""A gate: kernel launches and host reads of one training step, counted on fake tensors by bench/count.py, must not rise.

A change that lowers a number should write the lower one here. Full-size models, LoRA of all layers, bf16.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

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


def test_the_counter_sees_launches_reads_and_views(count):
    with FakeTensorMode(), count.Counter(on_host=[]) as counter:
        x = torch.ones(3, 2)
        (x.t() + 1).sum().item()
    assert (counter.counts.launches, counter.counts.host_reads) == (3, 1)
    assert counter.by_operation == {"ones": 1, "add": 1, "sum": 1}
