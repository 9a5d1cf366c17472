"""Tiny models in both layouts, tiny adapters for them, and a way to call a tool as its command line does."""

import functools
import importlib
import sys

import pytest
import torch

from tests.models.conftest import FAMILIES, layouts  # noqa: F401 (a fixture)

KINDS = {"lora": {"conv_dim": "2", "conv_alpha": "1"}, "loha": {"conv_dim": "2"}, "lokr": {"conv_dim": "2", "factor": "4"}, "oft": {}}


@pytest.fixture
def run_tool(monkeypatch):
    """Call it with a module's name and its command line: `run_tool("networks.merge_lora", "--models", ...)`."""

    def run(module: str, *argv) -> None:
        monkeypatch.setattr(sys, "argv", [module, *map(str, argv)])
        importlib.import_module(module).main()

    return run


@pytest.fixture(scope="session")
def base(layouts):  # noqa: F811
    """Call it with a model kind: its models, loaded once from the single file. Leave them as they are."""
    return functools.cache(lambda kind: FAMILIES[kind].load(str(layouts(kind).single_file)))


@pytest.fixture(scope="session")
def adapters(base, session_folder):
    """Call it with a model kind, a network and a seed: its file with random weights, and the network, detached from the models."""

    @functools.cache
    def made(kind: str, network: str = "lora", seed: int = 0, dim: int = 3, alpha: float = 1.5):
        models, family = base(kind), FAMILIES[kind]
        module = importlib.import_module(f"networks.{network}")
        encoders, blocks = family.text_encoder_for_network(models), 4 if network == "oft" else dim
        built = module.create_network(1.0, blocks, alpha, None, encoders, models.unet, **KINDS[network])
        built.apply_to(encoders, models.unet, network != "oft", True)
        detach(built)
        generator = torch.Generator().manual_seed(seed)
        for parameter in built.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        path = session_folder / f"{kind}_{network}_{seed}_{dim}_{alpha}.safetensors"
        built.save_weights(path, None, {"ss_network_module": f"networks.{network}", "ss_v2": str(kind == "sd2")})
        return path, built

    return made


def attach(network) -> None:
    for module in network.adapters:
        module.org_module.forward = module.forward


def detach(network) -> None:
    for module in network.adapters:
        module.org_module.forward = module.base_forward


@torch.no_grad()
def outputs(family, models) -> torch.Tensor:
    """Text states and the U-Net's answer to fixed inputs, in one vector."""
    ids = family.tokenize(["a photo of a cat"])
    encoders = [encoder.eval() for encoder in models.text_encoders]
    for one, encoder in zip(ids, encoders):
        one.remainder_(encoder.get_input_embeddings().num_embeddings)
    text = family.encode_text(encoders, ids)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    sizes = {name: torch.tensor([[64, 64]]) for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw")}
    answer = family.predict(models.unet.eval(), latents, torch.tensor([400]), text, sizes)
    return torch.cat([answer.flatten(), *(value.flatten() for value in text.values())])
