"""Small facts about devices that the rooms above share."""

import torch


def clear_device_cache(device: torch.device | str) -> None:
    """Gives memory that torch holds back but no tensor uses to other programs. Does nothing on the CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
