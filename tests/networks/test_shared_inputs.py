import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from library.kernels.attention import own_attention
from library.models.stored_weights import store_weights
from networks.layers import Dropout, lora_module
from networks.network import AdapterNetwork
from networks.shared_inputs import fit_together
from networks.targets import Target

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
NO_DROPOUT = Dropout()


class Block(nn.Module):
    """Self-attention and cross-attention of one U-Net block, in bf16."""

    def __init__(self):
        super().__init__()
        self.attn1 = Attention(16, heads=2, dim_head=8)
        self.attn2 = Attention(16, cross_attention_dim=12, heads=2, dim_head=8)

    def forward(self, x, context):
        return self.attn2(self.attn1(x), context)


def lora_block(dropout=NO_DROPOUT, ranks=(4, 4, 4, 4), compute_in=True, store=None) -> tuple[Block, AdapterNetwork]:
    """The block with LoRA around its layers, the same at every call."""
    torch.manual_seed(0)
    block = Block().to(torch.bfloat16).requires_grad_(False)
    if store:
        store_weights(block, store)
    modules = []
    for attention in ("attn1", "attn2"):
        for name, rank in zip(LAYERS, ranks, strict=True):
            path = f"{attention}.{name}"
            target = Target("lora_unet_" + path.replace(".", "_"), path, block.get_submodule(path), "")
            modules.append(lora_module(target, rank, 2.0, 1.0, dropout))
            nn.init.normal_(modules[-1].lora_up.weight, std=0.1)
    network = AdapterNetwork([], modules)
    own_attention(block)
    network.apply_to(None, block)
    network.train()
    if compute_in:
        network.compute_in(torch.bfloat16)
    return block, network


def step(block, network) -> list[torch.Tensor]:
    """Output, gradients of both inputs and of all weights, and the next random number."""
    torch.manual_seed(1)
    x, context = torch.randn(2, 6, 16, requires_grad=True), torch.randn(2, 5, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x, context)
    y.float().square().sum().backward()
    network.backward_done()
    return [y.detach(), x.grad, context.grad, *(weight.grad for weight in network.parameters()), torch.rand(1)]


def groups(block) -> list:
    return [block.attn1.processor.shared, block.attn2.processor.shared]


def apart(block):
    """The block with each layer computed by itself."""
    for attention in (block.attn1, block.attn2):
        attention.processor.shared = None
    return block


@pytest.mark.parametrize("dropout", [NO_DROPOUT, Dropout(neuron=0.3), Dropout(neuron=0.2, rank=0.3)])
def test_layers_computed_together_give_what_each_gives_alone(dropout):
    block, network = lora_block(dropout)
    together = step(block, network)
    assert all(groups(block))
    block, network = lora_block(dropout)
    for one, other in zip(together, step(apart(block), network), strict=True):
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.03)
    assert torch.equal(together[-1], step(apart(block), network)[-1])


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "mm" in func._schema.name
        return func(*args, **(kwargs or {}))


def count_products(block, network) -> int:
    with Products() as products:
        step(block, network)
    return products.count


def test_together_takes_fewer_products():
    block, network = lora_block()
    assert count_products(block, network) + 20 <= count_products(apart(block), network)


@pytest.mark.parametrize("change", [{"dropout": Dropout(module=0.5)}, {"ranks": (4, 2, 4, 4)}])
def test_layers_that_differ_make_no_group(change):
    block, _ = lora_block(**change)
    assert groups(block) == [None, None]


def replace_weight(block, network):
    block.attn1.to_k.weight.data = block.attn1.to_k.weight.data * 2


def hook(block, network):
    block.attn1.to_k.register_forward_hook(lambda layer, inputs, output: output * 2)


def disable(block, network):
    network.unet_loras[1].enabled = False


def wrap(block, network):
    inner = block.attn1.to_k.forward
    block.attn1.to_k.forward = lambda x: inner(x) * 2


@pytest.mark.parametrize("change", [replace_weight, hook, disable, wrap])
def test_a_layer_that_was_changed_is_computed_as_it_is_now(change):
    block, network = lora_block()
    change(block, network)
    block_apart, network_apart = lora_block()
    change(block_apart, network_apart)
    with torch.autocast("cpu", torch.bfloat16):
        inputs = torch.randn(2, 6, 16), torch.randn(2, 5, 12)
        assert block.attn1.processor.shared(inputs[0]) is None
        torch.testing.assert_close(block(*inputs), apart(block_apart)(*inputs), rtol=0.03, atol=0.03)


def test_compiled_blocks_compute_layer_by_layer(monkeypatch):
    block, network = lora_block()
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    block.attn1.processor.shared = block.attn2.processor.shared = lambda x: pytest.fail("called")
    assert step(block, network)[0].shape == (2, 6, 16)


def test_weights_stored_in_another_form_make_no_group():
    block, network = lora_block(store=lambda weight: weight.in_8_bit(scaled=True))
    assert groups(block) == [None, None]
    assert step(block, network)[0].isfinite().all()


def test_base_weights_become_views_of_one_tensor_with_the_same_values():
    plain, _ = lora_block(compute_in=False)
    block, _ = lora_block()
    weights = [block.attn1.to_q.weight, block.attn1.to_k.weight, block.attn1.to_v.weight]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    for (name, weight), other in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_without_copies_nothing_is_grouped():
    block, network = lora_block(compute_in=False)
    network.to(torch.bfloat16).compute_in(torch.bfloat16)
    assert groups(block) == [None, None]


def test_weights_that_change_are_followed():
    block, network = lora_block()
    inputs = torch.randn(2, 6, 16), torch.randn(2, 5, 12)
    with torch.autocast("cpu", torch.bfloat16):
        before = block(*inputs)
        network.load_state_dict({name: tensor * 2 if "lora_up" in name else tensor for name, tensor in network.state_dict().items()})
        assert not torch.equal(block(*inputs), before)


def test_weights_that_are_spread_over_gpus_are_not_stacked():
    _, network = lora_block()
    members = network.adapters[:3]
    assert fit_together(members, torch.bfloat16)
    members[1].org_module.weight.placements = ("what a DTensor has",)
    assert not fit_together(members, torch.bfloat16)
