"""Times each kernel beside its plain torch form, forward and backward, at the shapes of a U-Net.

python bench/kernels.py [--family sd|sdxl] [--batch 1] [--rank 16] [--precision bf16] [--shrink N] [--seconds 0.3] [--json]

On CUDA everything is timed, attention by each kernel it can run on beside torch's own choice. On the CPU the Triton kernels do not run
(their interpreter says nothing about speed), so only the functions of torch operations are, in fp32. Optimizers: bench/optimizers.py.
--shrink divides the side of the picture, for slow machines. --seconds: how long each form is repeated.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from bench import count
from library.kernels.attention_choice import BACKENDS, Pinned
from library.kernels.frozen_conv import frozen_forward
from library.kernels.low_rank import conv_with_low_rank, linear_with_low_rank
from library.kernels.pointwise import Pointwise, kernels_for
from library.kernels.shared_input import stacked_linear_with_low_rank
from networks.layers import AdapterModule, Dropout, lora_module
from networks.max_norm import apply_max_norm
from networks.targets import Target

WIDTHS = {"sd": {320: 64, 640: 32, 1280: 16}, "sdxl": {320: 128, 640: 64, 1280: 32}}  # channels -> side of the latent
HEADS = {"sd": lambda channels: 8, "sdxl": lambda channels: channels // 64}
SCALE = 0.5
LAYERS = 64  # of the row for the max norm
PLACES = {"stride": (1, 1), "padding": (1, 1)}


@dataclass
class Case:
    """ours, plain: of `inputs`, which get gradients; without any the call itself is all."""

    name: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: list[Tensor]


@dataclass(frozen=True)
class Level:
    """One level of the U-Net: its pictures are (batch, channels, side, side)."""

    channels: int
    side: int
    heads: int
    batch: int
    rank: int
    device: str
    dtype: torch.dtype

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def tokens(self, width: int) -> Tensor:
        return self.random(self.batch, self.side**2, width)

    def picture(self) -> Tensor:
        made = self.random(self.batch, self.channels, self.side, self.side)
        half = self.device == "cuda" and self.dtype != torch.float32
        return made.contiguous(memory_format=torch.channels_last) if half else made


def cases(level: Level, fused: bool) -> list[Case]:
    found = [linear(level), projections(level), convolution(level), frozen_convolution(level), max_norm(level)]
    if fused:
        found += pointwise(level)
    return found + (attention(level) if level.device == "cuda" else [])


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(x, weight, bias) + SCALE * F.linear(F.linear(x, down), up)


def linear(level: Level) -> Case:
    channels, rank = level.channels, level.rank
    weight, bias = level.random(channels, channels), level.random(channels)
    inputs = [level.tokens(channels), level.random(rank, channels), level.random(channels, rank)]
    return Case(
        "LoRA of a linear layer",
        lambda x, down, up: linear_with_low_rank(x, weight, bias, down, up, SCALE),
        lambda x, down, up: plain_linear(x, weight, bias, down, up),
        inputs,
    )


def projections(level: Level) -> Case:
    channels, rank = level.channels, level.rank
    weight, downs, ups = level.random(3 * channels, channels), level.random(3 * rank, channels), level.random(3, channels, rank)
    leaves = [*downs.chunk(3), *ups]

    def ours(x: Tensor, *leaves: Tensor) -> Tensor:
        return sum(stacked_linear_with_low_rank(x, weight, downs, ups, leaves, SCALE))

    def plain(x: Tensor, *leaves: Tensor) -> Tensor:
        return sum(plain_linear(x, *factors) for factors in zip(weight.chunk(3), [None] * 3, leaves[:3], leaves[3:], strict=True))

    return Case("LoRA of q, k and v", ours, plain, [level.tokens(channels), *leaves])


def convolution(level: Level) -> Case:
    channels, rank = level.channels, level.rank
    weight, bias = level.random(channels, channels, 3, 3), level.random(channels)
    inputs = [level.picture(), level.random(rank, channels, 3, 3), level.random(channels, rank, 1, 1)]
    return Case(
        "LoRA of a convolution",
        lambda x, down, up: conv_with_low_rank(x, weight, bias, down, up, SCALE, **PLACES),
        lambda x, down, up: F.conv2d(x, weight, bias, **PLACES) + SCALE * F.conv2d(F.conv2d(x, down, None, **PLACES), up),
        inputs,
    )


def frozen_convolution(level: Level) -> Case:
    layer = nn.Conv2d(level.channels, level.channels, 3, padding=1, device=level.device, dtype=level.dtype).requires_grad_(False)
    return Case("frozen convolution", partial(frozen_forward, layer), partial(nn.Conv2d.forward, layer), [level.picture()])


def max_norm(level: Level) -> Case:
    """--scale_weight_norms over many layers; the plain form builds each weight change and asks for its norm."""
    layer = nn.Linear(level.channels, level.channels)
    modules = [lora_module(Target("m", "m", layer, ""), level.rank, 1.0, 1.0, Dropout()).to(level.device) for _ in range(LAYERS)]
    for module in modules:
        nn.init.normal_(module.lora_up.weight)
    return Case(f"max norm of {LAYERS} layers", lambda: apply_max_norm(modules, 1.0).maximum, lambda: dense_max_norm(modules, 1.0), [])


@torch.no_grad()
def dense_max_norm(modules: list[AdapterModule], bound: float) -> float:
    norms = []
    for module in modules:
        norm = module.delta_weight().norm().item()
        norms.append(norm)
        if norm > bound:
            for parameter in (module.lora_down.weight, module.lora_up.weight):
                parameter *= (bound / norm) ** 0.5
    return max(norms)


def pointwise(level: Level) -> list[Case]:
    channels = level.channels
    norm = nn.GroupNorm(32, channels, device=level.device, dtype=level.dtype).requires_grad_(False)
    rows = nn.LayerNorm(channels, device=level.device, dtype=level.dtype).requires_grad_(False)
    ours, plain = Pointwise(fused=True), Pointwise(fused=False)
    both = [
        ("GroupNorm and SiLU", lambda form, x: form.group_norm(x, norm, silu=True), level.picture()),
        ("LayerNorm", lambda form, x: form.layer_norm(x, rows), level.tokens(channels)),
        ("GEGLU", lambda form, x: form.geglu(x), level.tokens(8 * channels)),
    ]
    return [Case(name, partial(compute, ours), partial(compute, plain), [x]) for name, compute, x in both]


def attention(level: Level) -> list[Case]:
    """Self-attention on each of torch's kernels beside the one torch chooses by itself; those that cannot compute it are left out."""
    shape = (level.batch, level.heads, level.side**2, level.channels // level.heads)
    states = [level.random(*shape) for _ in range(3)]
    found = []
    for name in BACKENDS:
        if name == "math":  # holds the whole matrix of scores
            continue
        try:
            Pinned(name)(*states)
        except ValueError:
            continue
        found.append(Case(f"attention, {name}", Pinned(name), F.scaled_dot_product_attention, states))
    return found


def milliseconds(compute: Callable[..., Tensor], case: Case, level: Level, seconds: float) -> float:
    """The median of forward and backward, under autocast as in training."""
    leaves = [tensor.detach().requires_grad_() for tensor in case.inputs]

    def once() -> None:
        with torch.autocast(level.device, level.dtype, enabled=level.dtype != torch.float32):
            result = compute(*leaves)
        if leaves:
            torch.autograd.grad(result, leaves, torch.ones_like(result))

    once()
    timer = Timer("once()", globals={"once": once}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(WIDTHS), default="sd")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=sorted(count.DTYPES), help="(default: bf16 on CUDA, else no)")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each form is repeated (default: 0.3)")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="divide the side of the latents by this (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = count.DTYPES[options.precision or ("bf16" if device == "cuda" else "no")]
    fused = kernels_for(torch.device(device), dtype)
    rows = []
    for channels, side in WIDTHS[options.family].items():
        heads = HEADS[options.family](channels)
        level = Level(channels, side // options.shrink, heads, options.batch, options.rank, device, dtype)
        for case in cases(level, fused):
            ours, plain = (milliseconds(form, case, level, options.seconds) for form in (case.ours, case.plain))
            rows.append({"kernel": case.name, "channels": channels, "side": level.side, "ours_ms": ours, "plain_ms": plain})
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
