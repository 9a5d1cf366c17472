"""Time and memory of a training step of a full-size SD1.5 U-Net with each kind of adapter, ours beside LyCORIS, in one run.

    python bench/adapters.py [--size 512] [--ranks 8 16] [--rounds 3] [--device cpu] [--only LoRA LoHa]

Same layers (192 of the transformers), same random model, fp32 without autocast on the CPU, bf16 autocast elsewhere; AdamW. The kinds take
turns within a round; the fastest round counts. Seconds are of the processor (CPU), which other programs' load hardly changes, or of the
clock (CUDA). "kept" is what autograd holds between forward and backward, the base model's activations included; "peak" the highest
resident memory of the process (CPU) or allocated memory (CUDA) during a step.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusers import UNet2DConditionModel

from library.models.kohya_view import unet_view
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
        self.seconds, self.kept, self.peak = [], 0, 0

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


def make(unet: nn.Module, kind: str, rank: int, *, ours: bool, device: torch.device) -> Candidate:
    if ours:
        module, arguments = OURS[kind]
        network = module.create_network(1.0, rank, rank / 2, None, None, unet, **arguments)
        network.apply_to(None, unet, False, True)
    else:
        from lycoris import kohya

        view = unet_view(unet, original_layout=False)
        network = kohya.create_network(1.0, rank, rank / 2, None, [], view, preset="attn-mlp", **THEIRS[kind])
        network.apply_to([], view, False, True)
    return Candidate(network.to(device), unet)


def measure(candidate: Candidate, unet: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One forward, backward and update; notes time, memory kept for backward, and peak memory."""
    device = inputs[0].device
    own = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    reset_peak(device)
    start = clock(device)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        loss = unet(*inputs).sample.float().square().mean()
    loss.backward()
    candidate.optimizer.step()
    candidate.optimizer.zero_grad(set_to_none=True)
    candidate.seconds.append(clock(device) - start)
    candidate.kept = sum(kept.values())
    candidate.peak = max(candidate.peak, peak(device))


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels on a side")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--ours_only", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    unet = random_unet(args.device)
    side = args.size // 8
    noisy = torch.randn(1, 4, side, side, device=args.device)
    inputs = (noisy, torch.tensor([500], device=args.device), torch.randn(1, 77, 768, device=args.device))
    sides = {"ours": True} if args.ours_only else {"ours": True, "LyCORIS": False}
    candidates = {
        (rank, kind, name): make(unet, kind, rank, ours=ours, device=args.device)
        for rank in args.ranks
        for kind in args.only
        for name, ours in sides.items()
    }
    first = next(iter(candidates.values()))
    with first:
        measure(first, unet, inputs)  # warms up
    first.seconds.clear()
    for _ in range(args.rounds):
        for candidate in candidates.values():
            with candidate:
                measure(candidate, unet, inputs)
    report(candidates)


def report(candidates: dict) -> None:
    """A table with each figure as a multiple of our LoRA's at the same rank."""
    print("| rank | adapter | by | step, s | x LoRA | kept, MB | x LoRA | peak, MB | x LoRA |\n|---|---|---|---|---|---|---|---|---|")
    for (rank, kind, name), found in candidates.items():
        base = candidates.get((rank, "LoRA", "ours"), found)
        pairs = [("{:.2f}", min(found.seconds), min(base.seconds)), ("{:.0f}", found.kept / 1e6, base.kept / 1e6)]
        pairs.append(("{:.0f}", found.peak / 1e6, base.peak / 1e6))
        cells = [f"{form.format(own)} | {own / other:.2f}" for form, own, other in pairs]
        print(f"| {rank} | {kind} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
