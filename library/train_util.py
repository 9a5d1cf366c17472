"""A door for other programs: what they import from kohya's train_util. Nothing inside imports this module."""

from collections.abc import Mapping

from torch import Tensor

from library.data.custom_dataset import MinimalDataset
from library.saving.hashes import network_hashes

__all__ = ["MinimalDataset", "precalculate_safetensors_hashes"]


def precalculate_safetensors_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """(sshs_model_hash, sshs_legacy_hash) that a network with these tensors, on the CPU and contiguous, is saved with."""
    return network_hashes(tensors, metadata)
