"""Options that save memory or time act, and what they cannot do here is said."""

import importlib.util
import logging
import os
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate import Accelerator
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from library.kernels.frozen_conv import own_frozen_convolutions
from library.models.family import Models
from library.models.stored_weights import FLOAT8
from library.models.unet_blocks import largest_blocks, unet_blocks
from library.training import base_models, memory
from networks import lora
from networks.layers import Dropout, lora_module
from networks.targets import Target
from tests.training.options import network_options

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def unet_weights():
    torch.manual_seed(1)
    return small_unet().state_dict()


def small_unet() -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


@pytest.fixture
def unet(unet_weights):
    model = small_unet().requires_grad_(False)
    model.load_state_dict(unet_weights)
    return model


def answer(unet, gradient: bool = False):
    """The U-Net's output for fixed inputs, or with `gradient` the gradient of its square by the latents."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator).requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        output = unet(latents, torch.tensor([3]), torch.randn(1, 5, 8, generator=generator)).sample
    if not gradient:
        return output
    output.square().sum().backward()
    return latents.grad


def models(unet) -> Models:
    return Models(unet, nn.Module(), [nn.Sequential(nn.Linear(4, 4))])


class OnCpu:
    device = CPU


def test_a_unet_falls_into_transformer_and_residual_blocks(unet):
    kinds = [type(block).__name__ for block in unet_blocks(unet)]
    assert (kinds.count("BasicTransformerBlock"), kinds.count("ResnetBlock2D")) == (4, 8)


def test_the_largest_blocks_come_first(unet):
    sizes = [sum(p.numel() for p in block.parameters()) for block in largest_blocks(unet, 12)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("count", [13, 40])
def test_more_blocks_to_swap_than_there_are_is_refused(unet, count):
    with pytest.raises(ValueError, match=f"--blocks_to_swap {count}: this U-Net has 12 blocks"):
        memory.swap_blocks(unet, count, CPU)


def test_swapping_on_the_cpu_is_said_to_be_without_effect(unet, caplog):
    before = answer(unet)
    memory.swap_blocks(unet, 3, CPU)
    assert "--blocks_to_swap 3 has no effect" in caplog.text
    torch.testing.assert_close(answer(unet), before)


def test_swapped_blocks_give_the_same_output_and_gradient(unet):
    output, gradient = answer(unet), answer(unet, gradient=True)
    for block in largest_blocks(unet, 5):
        memory.store_weights(block, lambda weight: weight.at("cpu"))
    torch.testing.assert_close(answer(unet), output)
    torch.testing.assert_close(answer(unet, gradient=True), gradient)


@pytest.mark.parametrize("option, encoders_too", [("fp8_base", True), ("fp8_base_unet", False)])
def test_8_bit_takes_the_unet_and_with_fp8_base_the_text_encoders(unet, option, encoders_too):
    built = models(unet)
    exact = answer(unet)
    memory.store_frozen_weights(network_options(**{option: True}), built, OnCpu())
    assert hasattr(built.text_encoders[0][0], "stored") is encoders_too
    assert unet.mid_block.resnets[0].conv1.stored.data.dtype == FLOAT8 and type(unet.conv_in) is nn.Conv2d
    assert ((answer(unet) - exact).norm() / exact.norm()) < 0.1


def test_strict_compat_has_every_layer_in_8_bit_without_a_scale(unet):
    memory.store_frozen_weights(network_options(fp8_base_unet=True, strict_compat=True), models(unet), OnCpu())
    assert unet.conv_in.stored.data.dtype == FLOAT8 and unet.conv_in.stored.scale is None


def test_saved_tensors_wait_elsewhere_and_the_gradient_is_the_same(unet):
    gradient = answer(unet, gradient=True)
    memory.offload_saved_tensors(unet, pinned=False)
    torch.testing.assert_close(answer(unet, gradient=True), gradient)
    answer(unet)  # and without gradients nothing is kept


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cpu_offload_checkpointing": True}, "no effect without --gradient_checkpointing"),
        ({"cpu_offload_checkpointing": True, "gradient_checkpointing": True}, "the device is the CPU"),
    ],
)
def test_offloading_that_cannot_act_is_said(unet, options, message, caplog):
    memory.offload_checkpoints(network_options(**options), models(unet), CPU)
    assert message in caplog.text


@pytest.mark.parametrize("option", ["highvram", "ddp_static_graph", "ddp_gradient_as_bucket_view"])
def test_switches_that_change_nothing_are_named(option, caplog):
    caplog.set_level(logging.INFO)
    memory.tell_of_switches_without_effect(network_options(**{option: True}))
    assert f"--{option} changes nothing" in caplog.text


def test_slicing_and_tiling_reach_the_vae():
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    memory.slice_vae(network_options(vae_slicing=True, vae_tiling=True), vae)
    assert vae.use_slicing and vae.use_tiling


def test_blocks_of_one_shape_are_compiled_once_also_inside_adapters(monkeypatch):
    blocks = nn.ModuleList(ResnetBlock2D(in_channels=8, groups=4, temb_channels=8) for _ in range(3)).requires_grad_(False)
    for number, block in enumerate(blocks):
        lora_module(Target(f"lora_{number}", f"{number}.conv1", block.conv1, f"lora_{number}"), 2, 1, 1.0, Dropout()).apply_to()
    x, temb = torch.randn(1, 8, 4, 4), torch.randn(1, 8)
    expected = [block(x, temb) for block in blocks]
    graphs = []  # one for each call of the compiler
    monkeypatch.setattr(memory, "check_backend", lambda backend, device: None)
    monkeypatch.setattr(memory, "keep_compiled", lambda: None)
    compiler = lambda graph, inputs: (graphs.append(graph), graph.forward)[1]  # noqa: E731
    torch._dynamo.reset()
    memory.compile_blocks(network_options(torch_compile=True, dynamo_backend=compiler), models(blocks), CPU)
    torch.testing.assert_close([block(x, temb) for block in blocks], expected)
    assert len(graphs) == 1


def compilations(depth: int, monkeypatch) -> int:
    """How often the compiler is called for a step of a U-Net whose transformers have `depth` blocks each, set up as in a run."""
    torch.manual_seed(0)
    settings = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "mid_block_type": None}
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        transformer_layers_per_block=depth, **settings,
    ).requires_grad_(False)  # fmt: skip
    graphs = []
    monkeypatch.setattr(memory, "check_backend", lambda backend, device: None)
    monkeypatch.setattr(memory, "keep_compiled", lambda: None)
    compiler = lambda graph, inputs: (graphs.append(graph), graph.forward)[1]  # noqa: E731
    args = network_options(torch_compile=True, dynamo_backend=compiler)
    base_models.set_operations(args, models(unet), Accelerator(cpu=True))
    network = lora.create_network(1.0, 2, 1.0, None, [], unet)
    network.apply_to([], unet, False, True)
    own_frozen_convolutions(unet, memory.blocks_to_compile(args, models(unet)))
    torch._dynamo.reset()
    memory.compile_blocks(args, models(unet), CPU)
    unet(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 3, 8)).sample.sum().backward()
    return len(graphs)


def test_more_blocks_of_the_same_shape_take_no_more_compiling_in_a_whole_unet(monkeypatch):
    assert compilations(5, monkeypatch) == compilations(2, monkeypatch)


@pytest.mark.parametrize("before", [None, default_cache_dir()])
def test_what_is_compiled_is_kept_from_run_to_run_where_the_user_keeps_caches(before, monkeypatch, tmp_path):
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(memory.COMPILED_AT, before or "")
    if before is None:
        monkeypatch.delenv(memory.COMPILED_AT)
    memory.keep_compiled()
    assert Path(os.environ[memory.COMPILED_AT]) == tmp_path / "kohya_lora_trainer" / "compiled"


@pytest.mark.parametrize(("named", "caches"), [("elsewhere", "folder"), (default_cache_dir(), "file")])
def test_what_is_compiled_stays_where_the_user_says_or_no_folder_can_be_made(named, caches, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / caches))
    monkeypatch.setenv(memory.COMPILED_AT, named)
    memory.keep_compiled()
    assert os.environ[memory.COMPILED_AT] == named


def test_an_absent_compiler_is_refused_by_name():
    with pytest.raises(ValueError, match="--dynamo_backend nvprims_nvfuser: this torch has .*inductor"):
        memory.check_backend("nvprims_nvfuser", CPU)


def test_inductor_on_a_gpu_needs_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package triton"):
        memory.check_backend("inductor", torch.device("cuda"))
