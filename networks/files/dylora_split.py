"""A DyLoRA cut into LoRA files of every smaller rank it was trained for."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from networks.files.adapter_file import AdapterFile


def cut_names(save_to: str, rank: int) -> str:
    """`out.safetensors` at rank 8 -> `out-0008.safetensors`."""
    path = Path(save_to)
    return str(path.with_name(f"{path.stem}-{rank:04d}{path.suffix}"))


def cuts(file: AdapterFile, unit: int) -> Iterator[tuple[int, dict[str, Tensor], dict[str, str]]]:
    """(rank, tensors, metadata) for unit, 2 unit, ... below the file's highest rank; alpha stays. Raises ValueError if it is no LoRA."""
    ranks = file.ranks()
    if not ranks:
        raise ValueError(f"{file.path} has no LoRA modules, so it is no DyLoRA")
    if unit < 1:
        raise ValueError(f"--unit must be 1 or more, got {unit}")
    highest = max(ranks.values())
    for rank in range(unit, highest, unit):
        tensors: dict[str, Tensor] = {}
        for module in file.modules:
            for part, tensor in file.read(module).items():
                if part == "lora_down.weight":
                    tensor = tensor[:rank].contiguous()
                elif part == "lora_up.weight":
                    tensor = tensor[:, :rank].contiguous()
                tensors[f"{module}.{part}"] = tensor
        comment = file.metadata.get("ss_training_comment", "")
        told = {"ss_training_comment": f"split from DyLoRA, rank {highest} to {rank}; {comment}", "ss_network_dim": str(rank)}
        yield rank, tensors, file.metadata | told
