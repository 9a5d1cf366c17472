import pytest
import torch
from torch import nn

from networks.targets import Target, sdxl_path, text_encoder_targets, unet_targets

# kind, with_conv, modules, parameters per unit of rank, elements of the wrapped weights
UNET_COUNTS = [
    ("sd1", False, 192, 423_936, 266_977_280),
    ("sd1", True, 278, 1_050_816, 857_006_080),
    ("sd2", False, 192, 432_128, None),
    ("sd2", True, 278, None, None),
    ("sdxl", False, 722, 2_659_840, 2_207_744_000),
    ("sdxl", True, 788, 3_074_240, 2_558_566_400),
]
ENCODER_COUNTS = [("sd1", 72, 165_888, 84_934_656), ("sd2", 138, 423_936, None), ("sdxl", 264, 903_168, 714_080_256)]


def per_rank(targets: list[Target]) -> int:
    """LoRA parameters that one more rank costs."""
    return sum(target.layer.weight[0].numel() + target.layer.weight.shape[0] for target in targets)


def weight_elements(targets: list[Target]) -> int:
    return sum(target.layer.weight.numel() for target in targets)


@pytest.mark.parametrize(("kind", "with_conv", "modules", "parameters", "elements"), UNET_COUNTS)
def test_a_full_size_unet_has_the_known_number_of_modules(real_models, kind, with_conv, modules, parameters, elements):
    targets = unet_targets(real_models(kind)[1], with_conv=with_conv)
    assert len({target.name for target in targets}) == len(targets) == modules
    assert parameters in (None, per_rank(targets))
    assert elements in (None, weight_elements(targets))


@pytest.mark.parametrize(("kind", "modules", "parameters", "elements"), ENCODER_COUNTS)
def test_full_size_text_encoders_have_the_known_number_of_modules(real_models, kind, modules, parameters, elements):
    targets = text_encoder_targets(real_models(kind)[0])
    assert len({target.name for target in targets}) == len(targets) == modules
    assert parameters == per_rank(targets)
    assert elements in (None, weight_elements(targets))


def test_sdxl_convolution_mode_has_the_known_layer_kinds(real_models):
    targets = unet_targets(real_models("sdxl")[1], with_conv=True)
    linear = sum(isinstance(target.layer, nn.Linear) for target in targets)
    spatial = sum(target.is_spatial for target in targets)
    assert (linear, len(targets) - linear - spatial, spatial) == (739, 11, 38)


def test_layers_of_a_transformer_block_come_in_kohyas_order(tiny_models):
    names = [target.name for target in unet_targets(tiny_models("sd1")[1], with_conv=False)[:12]]
    start = "lora_unet_down_blocks_0_attentions_0_"
    block = start + "transformer_blocks_0_"
    inner = ["to_q", "to_k", "to_v", "to_out_0"]
    assert names == [
        start + "proj_in",
        *(f"{block}attn1_{part}" for part in inner),
        f"{block}ff_net_0_proj",
        f"{block}ff_net_2",
        *(f"{block}attn2_{part}" for part in inner),
        start + "proj_out",
    ]


def test_up_blocks_come_before_the_mid_block_on_sd1(tiny_models):
    blocks = [target.path.split("_")[0] for target in unet_targets(tiny_models("sd1")[1], with_conv=True)]
    assert list(dict.fromkeys(blocks)) == ["down", "up", "mid"]


def test_one_text_encoder_has_another_prefix_than_two(tiny_models):
    single, pair = (text_encoder_targets(tiny_models(kind)[0]) for kind in ("sd1", "sdxl"))
    assert single[0].name == "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    assert [pair[0].name[:8], pair[-1].name] == ["lora_te1", "lora_te2_text_model_encoder_layers_3_mlp_fc2"]


@pytest.mark.parametrize(
    ("diffusers", "original"),
    [
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
    ],
)
def test_sdxl_layers_carry_their_original_names(diffusers, original):
    assert sdxl_path(diffusers) == original


def test_a_layer_without_an_original_place_is_refused():
    with pytest.raises(ValueError, match=r"up_blocks\.9"):
        sdxl_path("up_blocks.9.resnets.0.conv1")


def test_a_layer_of_another_kind_is_no_target():
    class Transformer2DModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(1, 4)
            self.proj_in = nn.Linear(4, 4)

    model = nn.Module()
    model.attentions = nn.ModuleList([Transformer2DModel()])
    assert [target.path for target in unet_targets(model, with_conv=True)] == ["attentions.0.proj_in"]
    assert torch.is_tensor(model.attentions[0].norm.weight)
