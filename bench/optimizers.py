"""Time per step and host reads of our multi-tensor optimizers, each beside its package and torch's AdamW.

    python bench/optimizers.py [--device cuda] [--model sd15] [--rank 16] [--steps 20] [--apart 50]

Ours have a second row for the steps that take one pass: Triton's kernels on a GPU, C functions on the CPU, where one thread works. The
parameters are those of a networks.lora on SD 1.5 (U-Net and text encoder) or SDXL (U-Net). Host reads are counted at the tensor methods
that wait for the device, and so are calls that wait for all its work; on the CPU nothing waits, and foreach AdamW's are those of its own
step counters. `apart` is how far the parameters lie from the package's after that many steps, relative to how far they have moved (0
leaves it out).
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bitsandbytes.optim
import dadaptation
import dadaptation.experimental
import lion_pytorch
import prodigyopt
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.optimization import Adafactor

from library.optim import adafactor, dadapt, dadapt_adan, dadapt_dual_averaging, eight_bit, lion, prodigy
from library.training.optimizer_kernels import use_kernels
from networks import lora

READS = ("item", "tolist", "__float__", "__bool__", "__int__")
SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
ROWS = {  # name: (optimizer over groups, name of the row it must agree with)
    "torch AdamW, foreach": (lambda groups: torch.optim.AdamW(groups, lr=1e-4, foreach=True), None),
    "torch AdamW, fused": (lambda groups: torch.optim.AdamW(groups, lr=1e-4, fused=True), None),
    "torch SGD, foreach": (lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9, nesterov=True, foreach=True), None),
    "AdamW8bit of bitsandbytes": (lambda groups: bitsandbytes.optim.AdamW8bit(groups, lr=1e-4), None),
    "AdamW8bit": (lambda groups: eight_bit.AdamW8bit(groups, lr=1e-4), "AdamW8bit of bitsandbytes"),
    "Lion of lion-pytorch": (lambda groups: lion_pytorch.Lion(groups, lr=1e-4), None),
    "Lion": (lambda groups: lion.Lion(groups, lr=1e-4), "Lion of lion-pytorch"),
    "Adafactor of transformers": (lambda groups: Adafactor(groups), None),
    "Adafactor": (lambda groups: adafactor.Adafactor(groups), "Adafactor of transformers"),
    "Prodigy of prodigyopt": (lambda groups: prodigyopt.Prodigy(groups, lr=1.0), None),
    "Prodigy": (lambda groups: prodigy.Prodigy(groups, lr=1.0), "Prodigy of prodigyopt"),
    "DAdaptAdam of dadaptation": (lambda groups: dadaptation.DAdaptAdam(groups, lr=1.0), None),
    "DAdaptAdam": (lambda groups: dadapt.DAdaptAdam(groups, lr=1.0), "DAdaptAdam of dadaptation"),
    "DAdaptation of dadaptation": (lambda groups: dadaptation.experimental.DAdaptAdamPreprint(groups, lr=1.0), None),
    "DAdaptation": (lambda groups: dadapt.DAdaptAdamPreprint(groups, lr=1.0), "DAdaptation of dadaptation"),
    "DAdaptSGD of dadaptation": (lambda groups: dadaptation.DAdaptSGD(groups, lr=1.0), None),
    "DAdaptSGD": (lambda groups: dadapt_dual_averaging.DAdaptSGD(groups, lr=1.0), "DAdaptSGD of dadaptation"),
    "DAdaptAdaGrad of dadaptation": (lambda groups: dadaptation.DAdaptAdaGrad(groups, lr=1.0), None),
    "DAdaptAdaGrad": (lambda groups: dadapt_dual_averaging.DAdaptAdaGrad(groups, lr=1.0), "DAdaptAdaGrad of dadaptation"),
    "DAdaptAdan of dadaptation": (lambda groups: dadaptation.DAdaptAdan(groups, lr=1.0), None),
    "DAdaptAdan": (lambda groups: dadapt_adan.DAdaptAdan(groups, lr=1.0), "DAdaptAdan of dadaptation"),
    "DAdaptAdanIP of dadaptation": (lambda groups: dadaptation.experimental.DAdaptAdanIP(groups, lr=1.0), None),
    "DAdaptAdanIP": (lambda groups: dadapt_adan.DAdaptAdanIP(groups, lr=1.0), "DAdaptAdanIP of dadaptation"),
    "DAdaptLion of dadaptation": (lambda groups: dadaptation.DAdaptLion(groups, lr=1.0), None),
    "DAdaptLion": (lambda groups: dadapt.DAdaptLion(groups, lr=1.0), "DAdaptLion of dadaptation"),
}
WITH_KERNELS = ("AdamW8bit", "Lion", "Prodigy", "DAdaptAdam", "DAdaptation", "DAdaptLion")


def by_kernels(build: Callable) -> Callable:
    """The same optimizer, with its kernels if they run on its parameters' device."""

    def built(groups):
        optimizer = build(groups)
        use_kernels(optimizer, groups[0]["params"][0].device)
        return optimizer

    return built


def rows_for(device: str) -> dict[str, tuple[Callable, str | None]]:
    rows = ROWS | {f"{name}, one pass": (by_kernels(ROWS[name][0]), ROWS[name][1]) for name in WITH_KERNELS}
    return {name: row for name, row in rows.items() if device.startswith("cuda") or not name.startswith("AdamW8bit")}


def lora_shapes(model: str, rank: int) -> list[torch.Size]:
    """The shapes of a LoRA's tensors, in their order; the model itself takes no memory."""
    with torch.device("meta"):
        if model == "sdxl":
            unet, text_encoders = UNet2DConditionModel(**SDXL_UNET), []
        else:
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
            text_encoders = [CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))]
    network = lora.create_network(1.0, rank, 1.0, None, text_encoders, unet)
    network.apply_to(text_encoders, unet, bool(text_encoders), True)
    return [parameter.shape for parameter in network.parameters()]


def parameters_of(shapes: list[torch.Size], device: str) -> list[torch.nn.Parameter]:
    """Parameters with gradients; every second one, up, starts at zero."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for number, shape in enumerate(shapes):
        start = torch.zeros(shape) if number % 2 else torch.randn(shape, generator=generator) / shape[1] ** 0.5
        parameters.append(torch.nn.Parameter(start.to(device)))
        parameters[-1].grad = (torch.randn(shape, generator=generator) * 1e-3).to(device)
    return parameters


def host_reads(step: Callable[[], object], device: str) -> int:
    """How often one call of `step` waits for `device`: for a value, or for all work that is queued."""
    count = 0

    def counted(method):
        def read(*values):
            nonlocal count
            count += not values or values[0].device.type == torch.device(device).type
            return method(*values)

        return read

    with ExitStack() as patched:
        for owner, name in [*((torch.Tensor, name) for name in READS), (torch.cuda, "synchronize")]:
            patched.enter_context(mock.patch.object(owner, name, counted(getattr(owner, name))))
        step()
    return count


def milliseconds(step: Callable[[], object], steps: int, device: str) -> float:
    """The fastest of `steps` calls; on the CPU in processor time of this process, so that other programs count little."""
    on_gpu = device.startswith("cuda")
    synchronize, clock = (torch.cuda.synchronize, time.perf_counter) if on_gpu else (lambda: None, time.process_time)
    times = []
    for _ in range(steps):
        synchronize()
        start = clock()
        step()
        synchronize()
        times.append(clock() - start)
    return min(times) * 1000


def trained(build: Callable, shapes: list[torch.Size], device: str, steps: int) -> list[torch.Tensor]:
    """The parameters after `steps` on gradients that point home and shake a little."""
    parameters = parameters_of(shapes, device)
    optimizer = build([{"params": parameters}])
    noise = [parameter.grad.clone() for parameter in parameters]
    for step in range(steps):
        shake = 1.0 if step % 3 else -1.0
        for parameter, own in zip(parameters, noise, strict=True):
            parameter.grad = 1e-2 * parameter.detach() + shake * own
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def apart(build: Callable, package: Callable, shapes: list[torch.Size], device: str, steps: int) -> float:
    """Distance of ours to the package's parameters over the distance from the start."""
    start = [parameter.detach() for parameter in parameters_of(shapes, device)]
    ours, theirs = (trained(one, shapes, device, steps) for one in (build, package))

    def norm(left, right):
        return torch.stack(torch._foreach_norm(torch._foreach_sub(left, right))).norm().item()

    return norm(ours, theirs) / norm(theirs, start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=["sd15", "sdxl"], default="sd15")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--apart", type=int, default=0, metavar="STEPS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = lora_shapes(args.model, args.rank)
    count = sum(shape.numel() for shape in shapes)
    print(f"LoRA on {args.model}, rank {args.rank}: {len(shapes)} tensors, {count:,} numbers; {args.device}, torch {torch.__version__}\n")
    print("| optimizer | ms per step | times AdamW | host reads | apart |\n|---|---|---|---|---|")
    base = None
    for name, (build, package) in rows_for(args.device).items():
        optimizer = build([{"params": parameters_of(shapes, args.device)}])
        if name.endswith(", one pass") and optimizer.kernels is None:
            print(f"| {name} | do not run here | | | |")
            continue
        milliseconds(optimizer.step, 3, args.device)
        time_taken, reads = milliseconds(optimizer.step, args.steps, args.device), host_reads(optimizer.step, args.device)
        base = base or time_taken
        distance = f"{apart(build, ROWS[package][0], shapes, args.device, args.apart):.0e}" if package and args.apart else ""
        print(f"| {name} | {time_taken:.1f} | {time_taken / base:.2f} | {reads} | {distance} |", flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
