"""Which attention kernels the U-Net and the VAE use."""

import importlib.util
import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def set_attention(
    unet: nn.Module, vae: nn.Module | None, *, sdpa: bool, xformers: bool, mem_eff_attn: bool, device: torch.device | str
) -> None:
    """Acts on --mem_eff_attn, --xformers and --sdpa, the first of them that is set.

    diffusers' models use torch's scaled dot product attention from the start. It takes the place of plain attention and of
    --mem_eff_attn as well: its results differ by rounding only, and it never holds a whole score matrix on a GPU.
    Raises ValueError for --xformers on a GPU without the package.
    """
    if mem_eff_attn:
        logger.info("--mem_eff_attn: using torch's scaled dot product attention, which needs no more memory and is faster")
        return
    if not xformers:
        return
    if sdpa:
        logger.info("--xformers goes before --sdpa")
    if torch.device(device).type != "cuda":
        logger.warning("--xformers works on CUDA only, and this device is %s: using --sdpa instead", device)
        return
    if importlib.util.find_spec("xformers") is None:
        raise ValueError("--xformers needs the package xformers: pip install xformers, or use --sdpa, which needs nothing")
    for module in (unet, vae):
        if module is not None:
            module.enable_xformers_memory_efficient_attention()
