"""Whole runs with little memory: precision of weights and gradients, and that training goes on as before."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from library.models.stored_weights import FLOAT8
from library.training.accelerator import allow_half_precision_gradients
from library.training.network_recipe import prepare, train
from tests.golden_workshop import read_command_line
from tests.training.options import command_line, write_images


@pytest.fixture(scope="module")
def smallest(tiny_models, tmp_path_factory):
    """A finished run with everything that saves memory and works on the CPU, its losses, and the saved file."""
    folder = tmp_path_factory.mktemp("memory")
    options = dict.fromkeys(("full_bf16", "fp8_base", "gradient_checkpointing", "lowram", "vae_tiling", "no_half_vae", "sdpa"), True)
    argv = command_line(
        tiny_models("sd1"), write_images(folder / "data"), folder / "out", mixed_precision="bf16", save_precision="float", **options
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run, losses, gradients = prepare(*read_command_line("sd", argv)), [], []
    run.watchers.append(lambda step: losses.append(float(step.loss)))
    run.watchers.append(lambda step: gradients.extend(p.grad.dtype for p in run.network.parameters() if p.grad is not None))
    train(run)
    return run, losses, gradients, folder / "out" / "lora.safetensors"


def test_trained_weights_and_gradients_are_in_half_precision(smallest):
    run, _, gradients, _ = smallest
    assert {parameter.dtype for parameter in run.network.parameters()} == set(gradients) == {torch.bfloat16}


def test_frozen_weights_are_in_8_bit_and_the_vae_in_full_precision(smallest):
    models = smallest[0].models
    modules = [module for model in (models.unet, *models.text_encoders) for module in model.modules()]
    assert {module.stored.data.dtype for module in modules if hasattr(module, "stored")} == {FLOAT8} and models.vae.dtype == torch.float32


def test_such_a_run_learns_about_what_the_plain_one_does(smallest):
    assert smallest[1] == pytest.approx([1.4888, 1.299], abs=0.03)


def test_the_file_has_the_precision_asked_for(smallest):
    assert {tensor.dtype for tensor in load_file(smallest[3]).values()} == {torch.float32}


def test_full_fp16_lets_the_scaler_unscale_fp16_gradients():
    class Holder:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    allow_half_precision_gradients(Holder)
    Holder.scaler.scale(weight.float().sum()).backward()
    Holder.scaler.unscale_(optimizer)
    assert weight.grad.tolist() == [1.0, 1.0]
