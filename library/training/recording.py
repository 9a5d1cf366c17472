"""`--cuda_graph auto`: whether the steps of this run can be recorded."""

import logging
from argparse import Namespace

import torch
from accelerate import Accelerator
from torch import nn

from library.kernels.replay import Leaves, Replays, cuda_recorder
from library.training.memory import SELECTIVE

logger = logging.getLogger(__name__)

PARTS = {"unet_replays": "the U-Net", "text_replays": "the text encoder"}
"""Name in StepParts -> what it is."""


def recordings(args: Namespace, network: nn.Module, accelerator: Accelerator) -> dict[str, Replays]:
    """The parts of a step that are recorded, by their names in StepParts: all that is large, where --cuda_graph asks for it.

    Nothing where something stands in the way, which is told in a line. To be called when weights lie where they stay and the
    low-precision copies are made.
    """
    if args.cuda_graph != "auto":
        return {}
    reason = obstacle(args, network, accelerator.device)
    if reason is not None:
        logger.warning("--cuda_graph auto has no effect: %s", reason)
        return {}
    tensors = network.leaves()
    adding_up = args.gradient_accumulation_steps > 1 and any(isinstance(leaf, nn.Parameter) for leaf in tensors)
    leaves = Leaves(tensors, keeps_gradients=adding_up or args.strict_compat)  # there some gradients are never cleared
    # each with a pool of memory of its own, as the U-Net runs between the text encoder's forward and backward pass
    return {name: Replays(leaves, cuda_recorder(), part=part) for name, part in PARTS.items()}


def obstacle(args: Namespace, network: nn.Module, device: torch.device) -> str | None:
    """Why steps cannot be recorded, None if they can."""
    if device.type != "cuda":
        return f"it is for CUDA, the device is {device.type}"
    if args.gradient_checkpointing and args.gradient_checkpointing != SELECTIVE:
        return "blocks are checkpointed; --gradient_checkpointing selective goes with it"
    if args.blocks_to_swap:
        return "--blocks_to_swap brings weights to the GPU anew in each step"
    if args.torch_compile:
        return "--torch_compile makes the launches cheaper by itself"
    if not hasattr(network, "same_every_step"):
        return f"nothing is known of how {type(network).__module__} computes"
    if not network.same_every_step:
        return "these steps cannot be recorded (module_dropout, DyLoRA's choice of ranks, OFT's equations)"
    return None
