"""What other programs import from this suite: names, arguments and results as kohya's library has them."""

import inspect
import logging
import os
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from library import model_util, sdxl_model_util, train_util, utils
from library.saving.hashes import network_hashes
from tests.models.conftest import FAMILIES, layouts  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]
SIGNATURES = {
    model_util.load_models_from_stable_diffusion_checkpoint: "v2, ckpt_path, device, dtype, unet_use_linear_projection_in_v2",
    model_util.is_safetensors: "path",
    sdxl_model_util.load_models_from_sdxl_checkpoint: "model_version, ckpt_path, map_location, dtype, disable_mmap",
    sdxl_model_util.convert_diffusers_unet_state_dict_to_sdxl: "du_sd",
    sdxl_model_util._load_state_dict_on_device: "model, state_dict, device, dtype",
    sdxl_model_util.save_stable_diffusion_checkpoint: (
        "output_file, text_encoder1, text_encoder2, unet, epochs, steps, ckpt_info, vae, logit_scale, metadata, save_dtype"
    ),
    train_util.precalculate_safetensors_hashes: "tensors, metadata",
    utils.setup_logging: "args, log_level, reset",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_functions_take_their_arguments_in_kohyas_order(function):
    assert ", ".join(inspect.signature(function).parameters) == SIGNATURES[function]


def state_of_the_process() -> tuple:
    root = logging.getLogger()
    numbers = torch.random.get_rng_state().tolist(), random.getstate(), torch.get_default_dtype(), torch.get_num_threads()
    return root.handlers[:], root.level, numbers, sys.path[:], dict(os.environ)


@pytest.mark.parametrize("door", ["model_util", "sdxl_model_util", "train_util", "utils"])
def test_importing_a_door_changes_nothing(door):
    before = state_of_the_process()
    runpy.run_path(str(ROOT / "library" / f"{door}.py"), run_name=door)
    assert state_of_the_process() == before


def test_sd2_models_come_with_linear_or_convolution_projections(layouts):  # noqa: F811
    for linear, kind in ((True, torch.nn.Linear), (False, torch.nn.Conv2d)):
        _, _, unet = model_util.load_models_from_stable_diffusion_checkpoint(
            True, layouts("sd2").single_file, unet_use_linear_projection_in_v2=linear
        )
        assert type(unet.down_blocks[0].attentions[0].proj_in) is kind
    sample = torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 77, unet.config.cross_attention_dim)
    assert unet(*sample).sample.shape == (1, 4, 8, 8)


def test_an_sdxl_model_is_saved_as_it_was_loaded(layouts, tmp_path):  # noqa: F811
    file = layouts("sdxl").single_file
    first, second, vae, unet, logit_scale, info = sdxl_model_util.load_models_from_sdxl_checkpoint(None, file, "cpu")
    out = tmp_path / "out.safetensors"
    count = sdxl_model_util.save_stable_diffusion_checkpoint(
        out, first, second, unet, 1, 2, info, vae, logit_scale, {"a": "b"}, torch.float32
    )
    before, after = load_file(file), load_file(out)
    assert count == len(after) and not [
        key for key in before.keys() - after.keys() if "position_ids" not in key and key != "alphas_cumprod"
    ]
    assert all(torch.equal(after[key], before[key].float()) for key in after if key in before)


def test_the_original_u_net_takes_converted_tensors(layouts):  # noqa: F811
    unet = FAMILIES["sdxl"].load(str(layouts("sdxl").single_file)).unet
    tensors = sdxl_model_util.convert_diffusers_unet_state_dict_to_sdxl(unet.state_dict())
    config = {key: unet.config[key] for key in sdxl_model_util.UNET_CONFIG}
    with torch.device("meta"):
        empty = sdxl_model_util.sdxl_original_unet.SdxlUNet2DConditionModel(**config)
    sdxl_model_util._load_state_dict_on_device(empty, tensors, "cpu", torch.float32)
    assert empty.state_dict().keys() == tensors.keys() and "input_blocks.0.0.weight" in tensors
    assert torch.equal(empty.conv_in.weight, unet.conv_in.weight)


def test_hashes_are_those_of_a_saved_network():
    tensors = {"a": torch.ones(3)}
    assert train_util.precalculate_safetensors_hashes(tensors, {"ss_x": "1"}) == network_hashes(tensors, {"ss_x": "1"})


def test_file_kinds_are_told_by_their_ending():
    assert model_util.is_safetensors("A.Safetensors") and not model_util.is_safetensors("a.ckpt")
