"""A training step of a full-size SD1.5 U-Net with each kind of adapter, ours beside LyCORIS, in one run: what it costs, and its time.

    python bench/adapters.py [--size 512] [--ranks 8 16] [--precision no bf16]        what it costs, counted without computing
    python bench/adapters.py --timed [--size 256] [--rounds 3] [--device cuda]        how long it takes

Same layers (192 of the transformers), same model, AdamW. Counted as bench/count.py does it, exactly: FLOPs, bytes read and written, and
the most memory beside the models. Timed: fp32 on the CPU in processor time, bf16 autocast elsewhere; the kinds take turns within a
round and the fastest round counts. Processor time still grows by half where other programs fill the machine.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bench import count
from library.models.kohya_view import unet_view
from library.training.allocator import keep_freed_memory
from networks import dora, loha, lokr, lora

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)}
OURS = {
    "LoRA": (lora, {}),
    "LoHa": (loha, {}),
    "LoKr": (lokr, {}),
    "DoRA by input": (dora, {}),
    "DoRA by output": (dora, {"wd_on_output": "True"}),
}
THEIRS = {
    "LoRA": {"algo": "lora"},
    "LoHa": {"algo": "loha"},
    "LoKr": {"algo": "lokr"},
    "DoRA by input": {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"},
    "DoRA by output": {"algo": "lora", "dora_wd": "True"},
}


class Candidate:
    """One adapter on the U-Net, to be put in place for a step and taken off again."""

    def __init__(self, network: nn.Module, unet: nn.Module):
        network.requires_grad_(True).train()
        self.forwards = {layer: layer.__dict__.pop("forward") for layer in unet.modules() if "forward" in layer.__dict__}
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.seconds: list[float] = []

    def __enter__(self) -> None:
        for layer, forward in self.forwards.items():
            layer.forward = forward

    def __exit__(self, *_) -> None:
        for layer in self.forwards:
            del layer.forward


def random_unet(device: torch.device) -> UNet2DConditionModel:
    """The shapes of SD1.5 with weights of about their size."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    unet = unet.to_empty(device=device).requires_grad_(False)
    for parameter in unet.parameters():
        if parameter.dim() > 1:
            parameter.uniform_(-1, 1).mul_((parameter[0].numel() / 3) ** -0.5)
        else:
            parameter.zero_()
    for module in unet.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.weight.fill_(1)
    return unet


def make(unet: nn.Module, kind: str, rank: int, *, ours: bool) -> nn.Module:
    """The network, in place."""
    if ours:
        module, arguments = OURS[kind]
        network = module.create_network(1.0, rank, rank / 2, None, None, unet, **arguments)
        network.apply_to(None, unet, False, True)
        return network
    from lycoris import kohya

    view = unet_view(unet, original_layout=False)
    network = kohya.create_network(1.0, rank, rank / 2, None, [], view, preset="attn-mlp", **THEIRS[kind])
    network.apply_to([], view, False, True)
    return network


def counted(kind: str, rank: int, *, ours: bool, size: int, precision: str) -> tuple[float, float, float]:
    """TFLOPs, and GB read and written, and GB at the highest, of one step."""
    counts = count.count_step(
        "sd", rank=rank, batch=1, size=size, precision=precision, unet_only=True, cached_text=True,
        create=lambda _, unet: make(unet, kind, rank, ours=ours),
    ).counts  # fmt: skip
    return counts.flops / 1e12, counts.bytes / 1e9, counts.peak_bytes / 1e9


def counted_table(args) -> None:
    print("| precision | rank | adapter | by | TFLOP | x LoRA | GB moved | x LoRA | peak GB | x LoRA |\n" + "|---" * 10 + "|")
    for precision in args.precision:
        for rank in args.ranks:
            base = counted("LoRA", rank, ours=True, size=args.size, precision=precision)
            for kind in args.only:
                for name in sides(args):
                    own = counted(kind, rank, ours=name == "ours", size=args.size, precision=precision)
                    cells = [f"{mine:.2f} | {mine / other:.2f}" for mine, other in zip(own, base)]
                    print(f"| {precision} | {rank} | {kind} | {name} | {' | '.join(cells)} |", flush=True)


def measure(candidate: Candidate, unet: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One forward, backward and update; notes the time."""
    device = inputs[0].device
    start = clock(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        loss = unet(*inputs).sample.float().square().mean()
    loss.backward()
    candidate.optimizer.step()
    candidate.optimizer.zero_grad(set_to_none=True)
    candidate.seconds.append(clock(device) - start)


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed_table(args) -> None:
    torch.manual_seed(0)
    if args.device.type == "cpu":
        keep_freed_memory()  # as training does
    unet = random_unet(args.device)
    side = args.size // 8
    noisy = torch.randn(1, 4, side, side, device=args.device)
    inputs = (noisy, torch.tensor([500], device=args.device), torch.randn(1, 77, 768, device=args.device))
    candidates = {
        (rank, kind, name): Candidate(make(unet, kind, rank, ours=name == "ours").to(args.device), unet)
        for rank in args.ranks
        for kind in args.only
        for name in sides(args)
    }
    first = next(iter(candidates.values()))
    with first:
        measure(first, unet, inputs)  # warms up
    first.seconds.clear()
    for _ in range(args.rounds):
        for candidate in candidates.values():
            with candidate:
                measure(candidate, unet, inputs)
    print("| rank | adapter | by | step, s | x LoRA |\n" + "|---" * 5 + "|")
    for (rank, kind, name), found in candidates.items():
        base = candidates.get((rank, "LoRA", "ours"), found)
        print(f"| {rank} | {kind} | {name} | {min(found.seconds):.2f} | {min(found.seconds) / min(base.seconds):.2f} |")


def sides(args) -> list[str]:
    return ["ours"] if args.ours_only else ["ours", "LyCORIS"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="pixels on a side (default: 512, timed 256)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--precision", nargs="+", choices=sorted(count.DTYPES), default=["no", "bf16"], help="of the counted step")
    parser.add_argument("--only", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--ours_only", action="store_true")
    parser.add_argument("--timed", action="store_true", help="run the steps and take their time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="of the timed step")
    args = parser.parse_args()
    args.size = args.size or (256 if args.timed else 512)
    (timed_table if args.timed else counted_table)(args)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
