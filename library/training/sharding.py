"""Spreads the frozen U-Net over the processes of a run, where accelerate's config asks for FSDP, or DeepSpeed for stage 3.

Each process keeps a share of every block and gathers a block for as long as it computes with it (torch's fully_shard; ZeRO,
Rajbhandari et al. 2020, arXiv:1910.02054, stage 3). The adapter, its gradients and its optimizer stay whole in each process: they are
small, and saving, resuming to the same bytes, the guard and optimizers that work on all tensors at once need them so. Numbers are
those of whole models.
"""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from library.models.diffusers_folder import quiet_libraries
from library.models.unet_blocks import unet_blocks

logger = logging.getLogger(__name__)

FSDP, DEEPSPEED = "FSDP", "DeepSpeed"
SWITCHES = {"ACCELERATE_USE_FSDP": FSDP, "ACCELERATE_USE_DEEPSPEED": DEEPSPEED}
"""How accelerate launch hands on the choice of its config."""
SPREADS_WEIGHTS = {"full_shard", "hybrid_shard", "hybrid_shard_zero2", "1", "4", "5", "true"}
"""Values of FSDP_RESHARD_AFTER_FORWARD (FSDP 2) and FSDP_SHARDING_STRATEGY (FSDP 1) that do more than spread gradients."""
OTHER_WAYS = ("fp8_base", "fp8_base_unet", "blocks_to_swap", "torch_compile", "lowram")
"""Options that change how the U-Net's weights are kept or called."""


@dataclass(frozen=True)
class Sharding:
    """asked_by: FSDP or DeepSpeed. in_main_memory: shares wait there and visit the GPU."""

    asked_by: str
    in_main_memory: bool = False


def asked_sharding(args: Namespace) -> Sharding | None:
    """What accelerate's config, or --deepspeed, wants of a run of several processes; None leaves the models whole.

    Says so where only gradients and optimizer states would be spread. Raises ValueError beside options that exclude it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    chosen = [name for variable, name in SWITCHES.items() if _is_true(variable)]
    chosen = [DEEPSPEED] if args.deepspeed else chosen
    if not chosen:
        return None
    sharding = _of_fsdp() if chosen[0] == FSDP else _of_deepspeed(args)
    if sharding is None:
        logger.warning(
            "%s would spread gradients and optimizer states, which are small for an adapter: each process keeps them whole and gradients "
            "are averaged, with the same result. To spread the base model's weights choose DeepSpeed's stage 3, or FSDP's FULL_SHARD",
            chosen[0],
        )
        return None
    if sharding.asked_by == DEEPSPEED:
        logger.info("DeepSpeed: stage 3 spreads the U-Net by torch's own means; of its settings only the place of the weights counts")
    others = [name for name in OTHER_WAYS if getattr(args, name, None)] + (["cuda_graph auto"] if args.cuda_graph == "auto" else [])
    if others:
        options = " and ".join(f"--{name}" for name in others)
        raise ValueError(f"{options} cannot be used while {chosen[0]} spreads the U-Net over processes: leave one of them out")
    return sharding


def keep_from_accelerate() -> None:
    """accelerate itself would wrap what is trained, too."""
    for variable in SWITCHES:
        os.environ.pop(variable, None)


def spread(unet: nn.Module, dtype: torch.dtype, accelerator: Accelerator, sharding: Sharding) -> None:
    """Casts the frozen U-Net and leaves this process its share of each block, on its device; the whole is never there at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    on_gpu = accelerator.device.type != "cpu"
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = CPUOffloadPolicy(pin_memory=on_gpu) if sharding.in_main_memory and on_gpu else OffloadPolicy()
    with quiet_libraries():
        unet.to(dtype)
    whole = sum(parameter.nbytes for parameter in unet.parameters())
    for module in (*unet_blocks(unet), unet):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    logger.info(
        "%s: %.0f MB of U-Net weights are spread over %d processes%s; the adapter is whole in each",
        sharding.asked_by, whole / 2**20, accelerator.num_processes, ", in main memory" if sharding.in_main_memory and on_gpu else "",
    )  # fmt: skip


@contextmanager
def whole(*models: nn.Module) -> Iterator[None]:
    """In the body each process has all weights of models that are spread, so that processes can call them as often as each likes."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for model in models for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def _of_fsdp() -> Sharding | None:
    version_2 = os.environ.get("FSDP_VERSION", "1") == "2"
    asked = os.environ.get("FSDP_RESHARD_AFTER_FORWARD" if version_2 else "FSDP_SHARDING_STRATEGY", "FULL_SHARD")
    return Sharding(FSDP, _is_true("FSDP_OFFLOAD_PARAMS")) if asked.lower() in SPREADS_WEIGHTS else None


def _of_deepspeed(args: Namespace) -> Sharding | None:
    """--deepspeed's own options, or those of accelerate's config, which may name a file of DeepSpeed's."""
    if args.deepspeed:
        stage, weights_on = args.zero_stage, args.offload_param_device
    else:
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        weights_on = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")
        path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        if path != "none":
            zero = _read_config(path).get("zero_optimization", {})
            stage, weights_on = zero.get("stage", 0), zero.get("offload_param", {}).get("device")
    return Sharding(DEEPSPEED, weights_on in ("cpu", "nvme")) if stage == 3 else None


def _read_config(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ValueError(f"DeepSpeed's config file {path}, named by accelerate's config, cannot be read: {fault}") from fault


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
