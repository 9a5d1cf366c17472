"""Files of LyCORIS's kinds that act on the layer's own weight: merged as LyCORIS itself would, or as it runs them."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from networks.files.algebra import delta, kind_of

OFT, BOFT = "diag_oft.DiagOFTModule", "boft.ButterflyOFTModule"
KINDS = {  # LyCORIS's class, its arguments
    "oft": (OFT, {}), "oft bound": (OFT, {"constraint": 0.02}), "oft rescaled": (OFT, {"rescaled": True}),
    "boft": (BOFT, {}), "boft bound": (BOFT, {"constraint": 0.02}), "boft rescaled": (BOFT, {"rescaled": True}),
    "ia3": ("ia3.IA3Module", {}), "ia3 on input": ("ia3.IA3Module", {"train_on_input": True}), "glora": ("glora.GLoRAModule", {}),
}  # fmt: skip
LAYERS = {
    "linear": lambda: (nn.Linear(12, 16, bias=False), torch.randn(2, 5, 12)),
    "conv": lambda: (nn.Conv2d(6, 16, 3, padding=1, bias=False), torch.randn(2, 6, 5, 5)),
}


def lycoris(kind: str, layer: nn.Module) -> nn.Module:
    """LyCORIS's own module on the layer, with random weights; alpha is 2 and the rank 4, for what has them."""
    pytest.importorskip("lycoris", reason="needs the package lycoris_lora")
    place, arguments = KINDS[kind]
    file, name = place.split(".")
    module = getattr(__import__(f"lycoris.modules.{file}", fromlist=[name]), name)("m", layer, 1.0, 4, 2, **arguments)
    with torch.no_grad():
        for part, parameter in module.named_parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (part == "rescale"))
    return module


def parts_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {part: tensor.detach().contiguous() for part, tensor in (module.custom_state_dict() or module.state_dict()).items()}


@torch.no_grad()
@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_lycoris_computes_is_what_is_merged(kind, shape):
    torch.manual_seed(0)
    layer, x = LAYERS[shape]()
    module = lycoris(kind, layer)
    change = delta("lora_unet_some", parts_of(module), layer.weight)
    before = layer(x)
    if kind.startswith("boft"):  # LyCORIS 3 cannot build the weight of most layers, but can turn outputs
        module.apply_to()
        after = module.bypass_forward(x)
        module.restore()
    else:
        weight, layer.weight = layer.weight, nn.Parameter(module.get_merged_weight()[0])
        after, layer.weight = layer(x), weight
    layer.weight += change
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(layer(x), after, rtol=1e-5, atol=1e-5)


NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_{}".format
KEY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_{}.weight".format


@pytest.fixture
def one_of_each(layouts, base, tmp_path):
    """A file with one module of each kind on the tiny SD1 model, and what they change."""
    attention = base("sd1").unet.mid_block.attentions[0].transformer_blocks[0].attn1
    tensors, changes = {}, {}
    for kind, letter in {"oft": "q", "ia3": "k", "glora": "v"}.items():
        layer = getattr(attention, f"to_{letter}")
        parts = parts_of(lycoris(kind, layer))
        tensors |= {f"{NAME(letter)}.{part}": tensor for part, tensor in parts.items()}
        changes[letter] = delta(NAME(letter), parts, layer.weight.detach())
    save_file(tensors, tmp_path / "each.safetensors")
    return tmp_path / "each.safetensors", changes


def test_a_model_takes_them_with_their_strength(one_of_each, layouts, run_tool, tmp_path):
    path, changes = one_of_each
    out, model = tmp_path / "out.safetensors", layouts("sd1").single_file
    run_tool("networks.merge_lora", "--sd_model", model, "--models", path, "--ratios", 0.5, "--save_to", out)
    before, after = load_file(model), load_file(out)
    for letter, change in changes.items():
        torch.testing.assert_close(after[KEY(letter)], before[KEY(letter)].float() + 0.5 * change)


def test_they_become_a_lora_beside_the_model(one_of_each, layouts, run_tool, tmp_path):
    path, changes = one_of_each
    out, model = tmp_path / "out.safetensors", layouts("sd1").single_file
    argv = ["--sd_model", model, "--new_rank", 512, "--exact", "--save_to", out]
    run_tool("networks.svd_merge_lora", "--models", path, "--ratios", 0.5, *argv)
    made = load_file(out)
    for letter, change in changes.items():
        product = made[f"{NAME(letter)}.lora_up.weight"] @ made[f"{NAME(letter)}.lora_down.weight"]
        torch.testing.assert_close(product, 0.5 * change, rtol=1e-4, atol=1e-5)


def test_the_doctor_finds_modules_that_turn_nothing(one_of_each, run_tool, capsys):
    path, _ = one_of_each
    tensors = load_file(path)
    tensors[f"{NAME('q')}.oft_blocks"].zero_()
    save_file(tensors, path)
    run_tool("tools.lora_doctor", path)
    report = capsys.readouterr().out
    assert f"1 modules add nothing: they were not trained, or their weight was 0: {NAME('q')}" in report
    assert "ComfyUI ignores the IA3 modules" in report and "svd_merge_lora.py --sd_model makes a LoRA" in report


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"oft_diag": torch.zeros(4, 4, 4)}, "an early LyCORIS"),
        ({"oft_blocks": torch.zeros(5, 4, 4)}, "rotates 5 blocks of 4 outputs"),
        ({"weight": torch.zeros(5), "on_input": torch.tensor(0)}, "5 factors"),
    ],
    ids=["oft_diag", "oft", "ia3"],
)
def test_what_does_not_fit_is_told(parts, message):
    assert kind_of(parts) in ("OFT", "IA3")
    with pytest.raises(ValueError, match=message):
        delta("lora_unet_some", parts, torch.zeros(16, 12))


def test_an_oft_of_kohya_becomes_a_lora_that_programs_find(layouts, adapters, run_tool, tmp_path):
    path, _ = adapters("sd1", "oft")
    out = tmp_path / "out.safetensors"
    argv = ["--sd_model", layouts("sd1").single_file, "--new_rank", 4, "--save_to", out]
    run_tool("networks.svd_merge_lora", "--models", path, "--ratios", 1, *argv)
    assert all(key.startswith("lora_unet_") for key in load_file(out))
