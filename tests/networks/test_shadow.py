import pytest
import torch
from torch import nn

from networks.layers import Dropout, lora_module
from networks.network import AdapterNetwork
from networks.targets import Target


def small_network(dropout=None) -> tuple[nn.Module, AdapterNetwork]:
    """Two layers of a frozen bf16 model and LoRA around them, the same at every call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8)).to(torch.bfloat16).requires_grad_(False)
    modules = [
        lora_module(Target(f"lora_unet_{index}", str(index), layer, ""), 4, 2.0, 1.0, Dropout(dropout)) for index, layer in enumerate(model)
    ]
    for module in modules:
        nn.init.normal_(module.lora_up.weight, std=0.1)
    network = AdapterNetwork([], modules)
    network.apply_to(None, model)
    network.train()
    return model, network


def train(model, network, steps=3, accumulation=2) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    torch.manual_seed(1)
    for _ in range(steps):
        for _ in range(accumulation):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(torch.randn(3, 8)).square().mean()
            loss.backward()
            network.backward_done()
        optimizer.step()
        network.weights_changed()
        optimizer.zero_grad(set_to_none=True)
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("dropout", [None, 0.3])
def test_training_with_copies_gives_the_same_weights_as_casting_at_each_use(dropout):
    plain = train(*small_network(dropout))
    model, network = small_network(dropout)
    network.compute_in(torch.bfloat16)
    for one, other in zip(train(model, network), plain, strict=True):
        assert torch.equal(one, other)


def test_the_copies_follow_weights_that_are_loaded():
    model, network = small_network()
    network.compute_in(torch.bfloat16)
    before = model(torch.ones(1, 8, dtype=torch.bfloat16))
    network.load_state_dict({name: tensor * 2 for name, tensor in network.state_dict().items()})
    assert not torch.equal(model(torch.ones(1, 8, dtype=torch.bfloat16)), before)


def test_files_hold_the_weights_and_not_the_copies():
    _, network = small_network()
    names = list(network.state_dict())
    network.compute_in(torch.bfloat16)
    assert list(network.state_dict()) == names
    assert all(tensor.dtype == torch.float32 for name, tensor in network.state_dict().items() if "lora_" in name.split(".", 1)[1])


def test_weights_that_are_in_the_dtype_already_need_no_copies():
    _, network = small_network()
    network.to(torch.bfloat16).compute_in(torch.bfloat16)
    assert network.shadow is None
