import inspect
import logging

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from library.kernels.attention import SharedInputProcessor, own_attention, set_attention
from library.kernels.attention_choice import xformers_attention


class Vae(nn.Module):
    switched = False

    def enable_xformers_memory_efficient_attention(self):
        self.switched = True


def switched(device="cuda", sdpa=False, xformers=False, mem_eff_attn=False, attention=None) -> list[bool]:
    """Whether xFormers is used in the U-Net and in the VAE."""
    unet, vae = Attention(16, heads=2, dim_head=8), Vae()
    set_attention(unet, vae, sdpa=sdpa, xformers=xformers, mem_eff_attn=mem_eff_attn, attention=attention, device=device)
    return [unet.processor.attend is xformers_attention, vae.switched]


def test_without_options_nothing_changes(caplog):
    assert switched() == switched(sdpa=True) == [False, False]
    assert not caplog.records


def test_xformers_on_the_cpu_falls_back_with_one_warning(caplog):
    assert switched("cpu", xformers=True) == [False, False]
    assert len(caplog.records) == 1 and "--sdpa" in caplog.text


def test_xformers_without_the_package_names_package_and_way_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install xformers, or use --sdpa"):
        switched(xformers=True)


def test_xformers_is_used_in_the_unet_and_the_vae(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert switched(xformers=True) == [True, True]


def test_attention_goes_before_xformers(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert switched(attention="xformers") == [True, True]
    assert switched(attention="flash", xformers=True) == [False, False]


def test_mem_eff_attn_goes_before_xformers(caplog):
    caplog.set_level(logging.INFO)
    assert switched(mem_eff_attn=True, xformers=True) == [False, False]
    assert "--mem_eff_attn" in caplog.text


def test_our_attention_gives_what_diffusers_gives():
    torch.manual_seed(0)
    for context_size in (None, 12):
        attention = Attention(16, cross_attention_dim=context_size, heads=2, dim_head=8)
        x, context = torch.randn(2, 6, 16), context_size and torch.randn(2, 5, 12)
        expected = attention(x, encoder_hidden_states=context)
        own_attention(attention)
        assert isinstance(attention.processor, SharedInputProcessor)
        assert torch.equal(attention(x, encoder_hidden_states=context), expected)


def test_attention_with_a_norm_or_a_residual_goes_through_diffusers():
    torch.manual_seed(0)
    attention = Attention(16, heads=1, dim_head=16, norm_num_groups=4, residual_connection=True)
    x = torch.randn(2, 16, 3, 3)
    expected = attention(x)
    own_attention(attention)
    assert torch.equal(attention(x), expected)


def test_diffusers_finds_what_our_processor_takes():
    """The signature that is put together beforehand is that of the function."""
    taken = inspect.signature(SharedInputProcessor().__call__).parameters
    code = SharedInputProcessor.__call__.__code__
    assert list(taken) == list(code.co_varnames[1 : code.co_argcount])
