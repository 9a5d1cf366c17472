"""The number formats of --mixed_precision."""

import torch

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def check_precision(mixed_precision: str) -> None:
    """Raises ValueError for a format that this machine cannot compute in."""
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("--mixed_precision fp16 needs a GPU, and torch sees none: use bf16 or no here, or install torch with CUDA")
