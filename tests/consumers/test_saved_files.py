"""Every kind of file we save, met by the programs that use it: by its keys, and by the weights they end up with."""

import importlib
import logging
from collections import defaultdict

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from library.saving.weights import load_tensors
from networks.consumers import advice, limits
from tests.consumers.programs import PROGRAMS
from tests.networks.conftest import TINY_UNETS, smallest_models, text_encoders

APPLIED, IGNORED, REFUSED, OTHERWISE = "applied", "ignored", "refused", "applied otherwise"
BY_OUTPUT = {"dora_wd": "True", "wd_on_output": "True"}
EVERYWHERE = {"A1111": APPLIED, "ComfyUI": APPLIED, "diffusers": APPLIED}
WEB_UIS = {"A1111": APPLIED, "ComfyUI": APPLIED, "diffusers": REFUSED}
KINDS = {  # module, --network_args, what each program does with the file
    "lora": ("lora", {}, EVERYWHERE),
    "lora_fa": ("lora_fa", {}, EVERYWHERE),
    "dylora": ("dylora", {"conv_dim": "4"}, EVERYWHERE),
    "dora": ("dora", {}, {**WEB_UIS, "diffusers": OTHERWISE}),
    "dora by output": ("lora", BY_OUTPUT, dict.fromkeys(PROGRAMS, OTHERWISE)),
    "loha": ("loha", {}, WEB_UIS),
    "loha tucker": ("loha", {"use_tucker": "True"}, WEB_UIS),
    "loha dora": ("loha", {"dora_wd": "True"}, WEB_UIS),
    "lokr": ("lokr", {}, WEB_UIS),
    "lokr tucker": ("lokr", {"use_tucker": "True", "factor": "4"}, WEB_UIS),
    "lokr dora by output": ("lokr", BY_OUTPUT, {"A1111": OTHERWISE, "ComfyUI": OTHERWISE, "diffusers": REFUSED}),
    "oft": ("oft", {"enable_conv": "True"}, {"A1111": APPLIED, "ComfyUI": IGNORED, "diffusers": REFUSED}),
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """family -> (text encoder or list of them, U-Net); layers are not wrapped, as no adapter is put in place."""
    unet = UNet2DConditionModel(**TINY_UNETS["sdxl"]).requires_grad_(False)
    return {"sd1": smallest_models(), "sdxl": (text_encoders([(32, 1), (64, 1)]), unet)}


def made(models, kind: str):
    """A network of a kind with random weights in every factor, its modules children of it and the model left alone."""
    module, arguments, _ = KINDS[kind]
    family = "sdxl" if kind == "lora" else "sd1"
    torch.manual_seed(0)
    create = importlib.import_module(f"networks.{module}").create_network
    network = create(1.0, 4, 2.0, None, *models[family], **{"conv_dim": "2", **arguments} if module != "oft" else arguments)
    for adapter in network.adapters:
        network.add_module(adapter.lora_name, adapter)
        for name, parameter in adapter.named_parameters():
            if name == "dora_scale":
                parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
            elif not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return network


def modules_of(tensors):
    modules = defaultdict(dict)
    for key, tensor in tensors.items():
        module, _, part = key.partition(".")
        modules[module][part] = tensor
    return modules


@pytest.mark.parametrize("kind", KINDS)
def test_programs_do_with_a_file_what_the_table_says(models, tmp_path, kind, caplog):
    network = made(models, kind)
    with caplog.at_level(logging.WARNING):
        network.save_weights(tmp_path / "x.safetensors", None, {})
        network.save_weights(tmp_path / "x.safetensors", None, {})
    modules = modules_of(load_tensors(tmp_path / "x.safetensors"))
    found = {name: what_happens(program, network, modules) for name, program in PROGRAMS.items()}
    assert found == KINDS[kind][2]
    lines = [record.getMessage() for record in caplog.records if record.name == "networks.network"]
    told = {name for name in PROGRAMS if name in " ".join(lines)}
    assert told == {name for name, outcome in found.items() if outcome != APPLIED}
    assert len(lines) == bool(told)


def what_happens(program, network, modules) -> str:
    """The program's verdict on all modules of a file, and whether the weights it ends up with are ours to 1e-5."""
    verdicts = {program.verdict(name, parts) for name, parts in modules.items()}
    if verdicts != {APPLIED}:
        return REFUSED if REFUSED in verdicts else IGNORED
    same = True
    for adapter in network.adapters:
        weight = adapter.org_module.weight
        theirs = program.merged(weight, modules[adapter.lora_name])
        same &= torch.allclose(theirs, weight + adapter.delta_weight().detach(), rtol=1e-5, atol=1e-5)
    return APPLIED if same else OTHERWISE


def test_plain_lora_needs_no_advice():
    assert advice([("LoRA", None)]) is None


def test_every_limit_names_a_program():
    pairs = [("LoRA", "input"), ("LoRA", "output"), ("LoHa", None), ("LoHa", "input"), ("LoKr", "output"), ("OFT", None)]
    assert all(any(name in limit for name in PROGRAMS) for pair in pairs for limit in limits(*pair))


def test_diffusers_own_reader_takes_lora_and_refuses_loha(models, tmp_path):
    utilities = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    convert = utilities._convert_non_diffusers_lora_to_diffusers
    made(models, "dylora").save_weights(tmp_path / "lora.safetensors", None, {})
    made(models, "loha tucker").save_weights(tmp_path / "loha.safetensors", None, {})
    tensors = load_tensors(tmp_path / "lora.safetensors")
    converted, alphas = convert(dict(tensors))
    assert len(converted) == 2 * len(alphas) == 2 * len(modules_of(tensors))
    with pytest.raises(ValueError):
        convert(dict(load_tensors(tmp_path / "loha.safetensors")))
