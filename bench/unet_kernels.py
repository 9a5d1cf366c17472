"""Times each kernel beside its plain torch form, forward and backward, at the shapes of a U-Net.

python bench/unet_kernels.py [--family sd|sdxl] [--batch 1] [--rank 16] [--precision bf16] [--shrink N] [--json]

On CUDA everything is timed. On the CPU the Triton kernels do not run (their interpreter says nothing about speed), so only the functions
of torch operations are, in fp32. --shrink divides the side of the picture, for slow machines.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import count
from library.kernels.frozen_conv import frozen_forward
from library.kernels.low_rank import conv_with_low_rank, linear_with_low_rank
from library.kernels.pointwise import Pointwise, kernels_for

WIDTHS = {"sd": {320: 64, 640: 32, 1280: 16}, "sdxl": {320: 128, 640: 64, 1280: 32}}  # channels -> side of the latent
Case = tuple[str, Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def cases(channels: int, side: int, options: argparse.Namespace, device: str, dtype: torch.dtype, fused: bool) -> list[Case]:
    """(name, ours, plain torch, inputs that get gradients) for one level of the U-Net."""
    make = partial(torch.randn, device=device, dtype=dtype)
    picture = make(options.batch, channels, side, side)
    if device == "cuda" and dtype != torch.float32:
        picture = picture.contiguous(memory_format=torch.channels_last)
    tokens, wide = make(options.batch, side * side, channels), make(options.batch, side * side, 8 * channels)
    weight, bias = make(channels, channels), make(channels)
    down, up = make(options.rank, channels), make(channels, options.rank)
    kernel, conv_down, conv_up = make(channels, channels, 3, 3), make(options.rank, channels, 3, 3), make(channels, options.rank, 1, 1)
    conv = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype).requires_grad_(False)
    places = {"stride": (1, 1), "padding": (1, 1)}
    found: list[Case] = [
        (
            "LoRA of a linear layer",
            lambda x, down, up: linear_with_low_rank(x, weight, bias, down, up, 0.5),
            lambda x, down, up: F.linear(x, weight, bias) + 0.5 * F.linear(F.linear(x, down), up),
            [tokens, down, up],
        ),
        (
            "LoRA of a convolution",
            lambda x, down, up: conv_with_low_rank(x, kernel, bias, down, up, 0.5, **places),
            lambda x, down, up: F.conv2d(x, kernel, bias, **places) + 0.5 * F.conv2d(F.conv2d(x, down, None, **places), up),
            [picture, conv_down, conv_up],
        ),
        ("frozen convolution", partial(frozen_forward, conv), partial(nn.Conv2d.forward, conv), [picture]),
    ]
    if fused:
        found += fused_cases(channels, picture, tokens, wide, device, dtype)
    return found


def fused_cases(channels: int, picture: Tensor, tokens: Tensor, wide: Tensor, device: str, dtype: torch.dtype) -> list[Case]:
    ours, plain = Pointwise(fused=True), Pointwise(fused=False)
    norm = nn.GroupNorm(32, channels, device=device, dtype=dtype).requires_grad_(False)
    layer = nn.LayerNorm(channels, device=device, dtype=dtype).requires_grad_(False)
    return [
        ("GroupNorm and SiLU", *(lambda x, form=form: form.group_norm(x, norm, silu=True) for form in (ours, plain)), [picture]),
        ("LayerNorm", *(lambda x, form=form: form.layer_norm(x, layer) for form in (ours, plain)), [tokens]),
        ("GEGLU", *(form.geglu for form in (ours, plain)), [wide]),
    ]


def seconds(compute: Callable[..., Tensor], inputs: list[Tensor], device: str, dtype: torch.dtype, runs: int) -> float:
    """The median of forward and backward, under autocast as in training."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    grad, taken = None, []
    for _ in range(runs + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            result = compute(*leaves)
        grad = torch.ones_like(result) if grad is None else grad
        torch.autograd.grad(result, leaves, grad)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(WIDTHS), default="sd")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=sorted(count.DTYPES), help="(default: bf16 on CUDA, else no)")
    parser.add_argument("--runs", type=int, default=10, help="timed runs of each (default: 10)")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="divide the side of the latents by this (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = count.DTYPES[options.precision or ("bf16" if device == "cuda" else "no")]
    fused = kernels_for(torch.device(device), dtype)
    rows = []
    for channels, side in WIDTHS[options.family].items():
        side //= options.shrink
        for name, ours, plain, inputs in cases(channels, side, options, device, dtype, fused):
            times = [seconds(form, inputs, device, dtype, options.runs) for form in (ours, plain)]
            rows.append({"kernel": name, "channels": channels, "side": side, "ours_ms": times[0] * 1e3, "plain_ms": times[1] * 1e3})
    if options.json:
        print(json.dumps({"device": device, "torch": torch.__version__, "dtype": str(dtype), "rows": rows}))
        return
    print(f"forward and backward, batch {options.batch}, rank {options.rank}, {dtype}, {device}, Triton: {'yes' if fused else 'no'}")
    print(f"{'kernel':24}{'channels':>9}{'side':>6}{'plain ms':>11}{'ours ms':>11}{'ratio':>8}")
    for row in rows:
        print(f"{row['kernel']:24}{row['channels']:9}{row['side']:6}{row['plain_ms']:11.3f}{row['ours_ms']:11.3f}"
              f"{row['ours_ms'] / row['plain_ms']:8.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
