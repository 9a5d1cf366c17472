"""Time per step and host reads of our multi-tensor optimizers, each beside its package and torch's AdamW.

    python bench/optimizers.py [--device cuda] [--rank 16] [--modules 200] [--steps 20]

The parameters have the shapes of a LoRA on SDXL's attention layers. Reads are counted at the tensor methods
that wait for the device. On the CPU nothing waits, and AdamW's count is that of its step counters, which stay on the CPU anyway.
"""

import argparse
import sys
import time
from pathlib import Path

import dadaptation
import lion_pytorch
import prodigyopt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.optim import dadapt, lion, prodigy

WIDTHS = (640, 1280, 1280, 2048)
READS = ("item", "tolist", "__float__", "__bool__", "__int__")
PAIRS = [
    ("torch.optim.AdamW foreach", lambda groups: torch.optim.AdamW(groups, lr=1e-4, foreach=True)),
    ("lion_pytorch.Lion", lambda groups: lion_pytorch.Lion(groups, lr=1e-4)),
    ("ours", lambda groups: lion.Lion(groups, lr=1e-4)),
    ("prodigyopt.Prodigy", lambda groups: prodigyopt.Prodigy(groups, lr=1.0)),
    ("ours", lambda groups: prodigy.Prodigy(groups, lr=1.0)),
    ("dadaptation.DAdaptAdam", lambda groups: dadaptation.DAdaptAdam(groups, lr=1.0)),
    ("ours", lambda groups: dadapt.DAdaptAdam(groups, lr=1.0)),
    ("dadaptation.DAdaptLion", lambda groups: dadaptation.DAdaptLion(groups, lr=1.0)),
    ("ours", lambda groups: dadapt.DAdaptLion(groups, lr=1.0)),
]


def lora_parameters(modules: int, rank: int, device: str) -> list[torch.nn.Parameter]:
    """`modules` pairs of down (rank, width) and up (width, rank) with gradients; up starts at zero."""
    parameters = []
    for index in range(modules):
        width = WIDTHS[index % len(WIDTHS)]
        parameters += [
            torch.nn.Parameter(torch.randn(rank, width, device=device)),
            torch.nn.Parameter(torch.zeros(width, rank, device=device)),
        ]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def host_reads(step, device: str) -> int:
    """How often one call of `step` waits for a value from `device`."""
    count = 0
    plain = {name: getattr(torch.Tensor, name) for name in READS}

    def counted(method):
        def read(*values):
            nonlocal count
            count += values[0].device.type == torch.device(device).type
            return method(*values)

        return read

    for name, method in plain.items():
        setattr(torch.Tensor, name, counted(method))
    try:
        step()
    finally:
        for name, method in plain.items():
            setattr(torch.Tensor, name, method)
    return count


def milliseconds(step, steps: int, device: str) -> float:
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    print(f"{args.modules} modules of rank {args.rank} on {args.device}, torch {torch.__version__}")
    print(f"{'optimizer':28} {'ms per step':>12} {'host reads':>11}")
    for name, build in PAIRS:
        torch.manual_seed(0)
        optimizer = build(lora_parameters(args.modules, args.rank, args.device))
        milliseconds(optimizer.step, 3, args.device)
        print(f"{name:28} {milliseconds(optimizer.step, args.steps, args.device):12.2f} {host_reads(optimizer.step, args.device):11}")


if __name__ == "__main__":
    main()
