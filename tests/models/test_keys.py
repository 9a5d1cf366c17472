"""Names: original <-> diffusers, for checkpoints and adapters, over the real models."""

import json

import pytest
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.models import ldm_keys, sdxl_keys
from library.models.configs import attention_levels, unet_config, vae_config
from library.models.single_file import unet_sources
from library.models.swallow import layer_draws, text_encoder_draws
from tests.conftest import GOLDEN
from tests.tiny_models import unet_config as recorded_unet_config
from tests.tiny_models import vae_config as recorded_vae_config
from tests.tiny_single_files import original_unet_key, original_vae_key

SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10], "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def plain(config: dict) -> dict:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def full_unet(kind: str) -> UNet2DConditionModel:
    configs = {
        "sd1": plain(recorded_unet_config("sd1", full=True)),
        "sd2": plain(recorded_unet_config("sd1", full=True)) | SD2,
        "sdxl": plain(recorded_unet_config("sdxl")) | SDXL,
    }
    with init_empty_weights():
        return UNet2DConditionModel(**configs[kind])


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def unet(request):
    return request.param, full_unet(request.param)


def test_every_unet_name_maps_to_one_original_name_and_back(unet):
    kind, model = unet
    table = ldm_keys.unet_table(attention_levels(model.config))
    originals = {name: ldm_keys.renamed(name, table) for name in model.state_dict()}
    assert originals == {name: original_unet_key(name, kind) for name in originals}
    back = ldm_keys.inverse(table)
    assert all(ldm_keys.renamed(original, back) == name for name, original in originals.items())
    assert len(set(originals.values())) == len(originals) == {"sd1": 686, "sd2": 686, "sdxl": 1680}[kind]


def test_a_config_read_from_shapes_builds_the_same_unet(unet):
    kind, model = unet
    sources = unet_sources(model)
    shapes = {sources[name][0]: tuple(value.shape) for name, value in model.state_dict().items()}
    config = unet_config(shapes, heads=8 if kind == "sd1" else None, linear_projection=kind != "sd1", sample_size=model.config.sample_size)
    for key, value in config.items():
        expected = model.config[key]
        assert value == expected or value == [expected] * len(value), key


def test_adapter_names_of_sdxl_map_to_the_original_layout_and_back():
    model = full_unet("sdxl")
    paths = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    names = {path: sdxl_keys.adapter_name_to_original(path.replace(".", "_")) for path in paths}
    assert names == {path: original_unet_key(path + ".weight", "sdxl").removesuffix(".weight").replace(".", "_") for path in paths}
    assert all(sdxl_keys.adapter_name_to_diffusers(name) == path.replace(".", "_") for path, name in names.items())


def test_an_unknown_adapter_name_stays_as_it_is():
    for name in ("input_blocks_4_1_proj_in", "something_else.lora_down.weight", "down_blocks_10_resnets_0_conv1"):
        assert sdxl_keys.adapter_name_to_original(name) == name


def test_the_longest_beginning_wins():
    assert sdxl_keys.adapter_name_to_original("down_blocks_1_resnets_0_conv_shortcut.alpha") == "input_blocks_4_0_skip_connection.alpha"


def test_vae_names_map_both_ways():
    with init_empty_weights():
        vae = AutoencoderKL(**plain(recorded_vae_config("sd1", full=True)))
    table = ldm_keys.vae_table()
    originals = {name: ldm_keys.renamed(name, table) for name in vae.state_dict()}
    assert originals == {name: original_vae_key(name) for name in originals}
    assert all(ldm_keys.renamed(original, ldm_keys.inverse(table)) == name for name, original in originals.items())
    shapes = {original: tuple(vae.state_dict()[name].shape) for name, original in originals.items()}
    config = vae_config(shapes, scaling_factor=0.18215, sample_size=512)
    assert all(list(vae.config[key]) == value if isinstance(value, list) else vae.config[key] == value for key, value in config.items())


@pytest.mark.parametrize(("layers", "projection"), [(23, False), (32, True)])
def test_openclip_names_are_distinct_and_cover_the_encoder(layers, projection):
    config = CLIPTextConfig(hidden_size=64, num_hidden_layers=layers, num_attention_heads=1, intermediate_size=64, vocab_size=10)
    with init_empty_weights():
        encoder = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    table = ldm_keys.openclip_table(layers)
    names = [name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}" for name in encoder.state_dict()]
    sources = [ldm_keys.stacked_projection(name) or ldm_keys.renamed(name, table) for name in names]
    assert None not in sources and len(set(sources)) == len(names) == 4 + 16 * layers + projection


def test_two_entries_with_one_target_cannot_be_inverted():
    with pytest.raises(ValueError, match="same target"):
        ldm_keys.inverse({"a": "c", "b": "c"})


def test_construction_draws_are_those_of_the_reference():
    with init_empty_weights():
        vae = AutoencoderKL(**plain(recorded_vae_config("sd1", full=True)))
        clip_l = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
        openclip_h = CLIPTextModel(CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16))
    assert layer_draws(full_unet("sd1")) == 859_320_644
    assert layer_draws(full_unet("sd2")) == 865_710_404
    assert layer_draws(vae) == 83_614_183
    assert text_encoder_draws(clip_l) == 245_961_216
    assert text_encoder_draws(openclip_h) == 680_371_200


def test_the_tables_name_every_tensor_of_a_recorded_sd15_file():
    path = GOLDEN / "sd15_keys.json"
    recorded = set(json.loads(path.read_text()))
    ours = {ldm_keys.UNET_PREFIX + key for key, _ in unet_sources(full_unet("sd1")).values()}
    assert ours == {key for key in recorded if key.startswith(ldm_keys.UNET_PREFIX)}
