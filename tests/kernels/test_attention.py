import logging

import pytest

from library.kernels.attention import set_attention


class Model:
    switched = False

    def enable_xformers_memory_efficient_attention(self):
        self.switched = True


def switched(device="cuda", sdpa=False, xformers=False, mem_eff_attn=False) -> list[bool]:
    unet, vae = Model(), Model()
    set_attention(unet, vae, sdpa=sdpa, xformers=xformers, mem_eff_attn=mem_eff_attn, device=device)
    return [unet.switched, vae.switched]


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


def test_mem_eff_attn_goes_before_xformers(caplog):
    caplog.set_level(logging.INFO)
    assert switched(mem_eff_attn=True, xformers=True) == [False, False]
    assert "--mem_eff_attn" in caplog.text
