"""Which configs of accelerate spread the frozen U-Net over processes. tests/training/test_processes.py trains one so."""

import json
import os

import pytest

from library.training.sharding import Sharding, asked_sharding, keep_from_accelerate
from tests.training.options import network_options

FSDP_1 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}
FSDP_2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.fixture
def asked(monkeypatch):
    """What is asked for by the environment of one of two processes, and by options."""

    def ask(environment, **options):
        for name, value in {"WORLD_SIZE": "2", **environment}.items():
            monkeypatch.setenv(name, value)
        return asked_sharding(network_options(**options))

    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    return ask


@pytest.mark.parametrize(
    ("environment", "options", "sharding"),
    [
        (FSDP_1 | {"FSDP_SHARDING_STRATEGY": "FULL_SHARD"}, {}, Sharding("FSDP")),
        (FSDP_1 | {"FSDP_SHARDING_STRATEGY": "1", "FSDP_OFFLOAD_PARAMS": "true"}, {}, Sharding("FSDP", in_main_memory=True)),
        (FSDP_2 | {"FSDP_RESHARD_AFTER_FORWARD": "true"}, {}, Sharding("FSDP")),
        (DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, Sharding("DeepSpeed")),
        ({}, {"deepspeed": True, "zero_stage": 3, "offload_param_device": "cpu"}, Sharding("DeepSpeed", in_main_memory=True)),
    ],
)
def test_configs_that_spread_weights_spread_the_unet(asked, environment, options, sharding):
    assert asked(environment, **options) == sharding


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        (FSDP_1 | {"FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP"}, {}),
        (FSDP_2 | {"FSDP_RESHARD_AFTER_FORWARD": "false"}, {}),
        (DEEPSPEED, {}),
        ({}, {"deepspeed": True}),
    ],
)
def test_configs_that_spread_the_adapter_only_leave_everything_whole_and_say_so(asked, environment, options, caplog):
    assert asked(environment, **options) is None
    assert "each process keeps them whole and gradients are averaged, with the same result" in caplog.text


@pytest.mark.parametrize(("stage", "device", "sharding"), [(3, "nvme", Sharding("DeepSpeed", in_main_memory=True)), (2, "none", None)])
def test_a_config_file_of_deepspeed_decides(asked, tmp_path, stage, device, sharding):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": stage, "offload_param": {"device": device}}}))
    assert asked(DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}) == sharding


def test_a_config_file_that_cannot_be_read_is_named(asked, tmp_path):
    with pytest.raises(ValueError, match=r"zero.json, named by accelerate's config, cannot be read"):
        asked(DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "zero.json")})


def test_one_process_has_nothing_to_spread(asked, caplog):
    assert asked(FSDP_2 | {"WORLD_SIZE": "1"}) is None and not caplog.text


def test_a_run_without_them_says_nothing(asked, caplog):
    assert asked({"ACCELERATE_USE_FSDP": "false"}) is None and not caplog.text


@pytest.mark.parametrize(("option", "value"), [("fp8_base", True), ("blocks_to_swap", 2), ("torch_compile", True), ("cuda_graph", "auto")])
def test_options_that_exclude_it_are_named(asked, option, value):
    with pytest.raises(ValueError, match=f"--{option}.* cannot be used while FSDP spreads the U-Net over processes"):
        asked(FSDP_2 | {"FSDP_RESHARD_AFTER_FORWARD": "true"}, **{option: value})


def test_accelerate_hears_nothing_of_it(monkeypatch):
    for name in (*FSDP_2, *DEEPSPEED):
        monkeypatch.setenv(name, "true")
    keep_from_accelerate()
    assert not {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ)
