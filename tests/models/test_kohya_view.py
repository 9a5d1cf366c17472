from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.models.kohya_view import models_view, registration_key, text_encoder_view, unet_view
from tests.tiny_models import unet_config


@cache
def unet(kind: str) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**unet_config(kind))


def class_names(module: nn.Module) -> dict[str, str]:
    return {path: type(inner).__name__ for path, inner in module.named_modules()}


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_every_layer_with_weights_is_in_the_view_once(kind):
    model = unet(kind)
    view = unet_view(model, original_layout=kind == "sdxl")
    assert sorted(map(id, view.parameters())) == sorted(map(id, model.parameters()))


def test_sdxl_is_shown_in_the_original_layout():
    model = unet("sdxl")
    view = unet_view(model, original_layout=True)
    layers = dict(view.named_modules())
    assert layers["input_blocks.4.1.transformer_blocks.0.attn1.to_q"] is model.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    assert layers["input_blocks.3.0.op"] is model.down_blocks[0].downsamplers[0].conv
    assert layers["output_blocks.2.2.conv"] is model.up_blocks[0].upsamplers[0].conv
    assert not any(path.startswith(("down_blocks", "up_blocks", "mid_block")) for path in layers)


@pytest.mark.parametrize(
    ("path", "name"),
    [("", "SdxlUNet2DConditionModel"), ("input_blocks.4.1", "Transformer2DModel"), ("input_blocks.4.0", "ResnetBlock2D"),
     ("input_blocks.3.0", "Downsample2D"), ("output_blocks.2.2", "Upsample2D"),
     ("middle_block.1.transformer_blocks.0.attn2", "CrossAttention")],
)  # fmt: skip
def test_blocks_carry_the_class_names_that_others_look_for(path, name):
    assert class_names(unet_view(unet("sdxl"), original_layout=True))[path] == name


def test_blocks_come_in_kohyas_order():
    paths = [path for path in class_names(unet_view(unet("sd1"), original_layout=False)) if path.count(".") == 0 and path]
    assert paths == ["conv_in", "time_embedding", "down_blocks", "up_blocks", "mid_block", "conv_norm_out", "conv_out"]


def test_parts_of_a_transformer_block_come_in_kohyas_order():
    block = unet_view(unet("sd1"), original_layout=False).get_submodule("down_blocks.0.attentions.0.transformer_blocks.0")
    assert [name for name, _ in block.named_children()] == ["attn1", "ff", "attn2", "norm1", "norm2", "norm3"]


def test_numbers_in_a_path_sort_by_value():
    assert sorted(["down_blocks.10", "down_blocks.9"], key=registration_key) == ["down_blocks.9", "down_blocks.10"]


def test_the_view_answers_like_the_model_it_shows():
    model = nn.Sequential(nn.Linear(2, 2))
    view = text_encoder_view(model)
    x = torch.randn(1, 2)
    assert torch.equal(view(x), model(x))
    assert view.append == model.append


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_text_encoders_have_the_level_that_files_have(kind):
    config = CLIPTextConfig(num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=2, vocab_size=9)
    (view,), _ = models_view(unet("sd1"), [kind(config)], original_layout=False)
    names = class_names(view)
    assert names["text_model.encoder.layers.0.self_attn"] == "CLIPAttention"
    assert not any(path.startswith("encoder") for path in names)
