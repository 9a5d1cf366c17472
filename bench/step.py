"""Times whole training steps on the device at hand, with random weights: our kernels beside plain torch.

python bench/step.py [--family sd|sdxl] [--batch 1] [--rank 16] [--precision bf16] [--size 512] [--tiny] [--plain] [--json]

The step is that of bench/count.py: LoRA of all layers, AdamW, clipping; no data set and no files. All ways run in turn, --rounds times,
each turn in a process of its own. --plain leaves ours out, --no_plain the other. What is plain: norms and gates by torch, contiguous
pictures, torch's own convolutions. On the CPU the kernels do not run, so little but the convolutions differs.
--layers adds a way without anything of ours: a LoRA computed layer by layer, as sd-scripts does (bench/layer_by_layer.py), with foreach
AdamW and, on the CPU, the C library's usual way with freed memory. --cuda_graph adds ours recorded and replayed. --optimizers adds
ours with other optimizers than AdamW, each by its name for --optimizer_type.
"""

import argparse
import functools
import json
import logging
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench import count, layer_by_layer
from library.kernels.pointwise import kernels_for
from library.kernels.replay import cuda_recorder
from library.optim.optimizers import build_optimizer
from library.training.allocator import keep_freed_memory
from library.training.optimizer_kernels import use_kernels

TINY = {
    "sd": {"block_out_channels": (32, 64, 64, 64), "attention_head_dim": 4, "cross_attention_dim": 64},
    "sdxl": {
        "block_out_channels": (32, 64, 64),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 128,
        "projection_class_embeddings_input_dim": 6 * 256 + 64,
    },
}
TINY_CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
WARM_UP = 3
OURS, PLAIN, RECORDED, LAYERS = "ours", "plain", "recorded", "layers"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of_steps(options: argparse.Namespace, device: str, way: str) -> tuple[list[float], float]:
    """Seconds of each timed step, and the peak of GPU memory in GiB (0 on the CPU)."""
    logging.disable(logging.INFO)
    if options.tiny:
        make_tiny(options.family)
    if device == "cpu" and way != LAYERS:
        keep_freed_memory()
    dtype = count.DTYPES[options.precision]
    torch.manual_seed(0)
    with torch.device(device):
        models = count.full_size_models(options.family, dtype)
    step = count.prepared_step(
        models, options.family, rank=options.rank, batch=options.batch, size=options.size, dtype=dtype, unet_only=options.unet_only,
        kernels=way not in (PLAIN, LAYERS), checkpointing=options.gradient_checkpointing, device=device,
        create=functools.partial(layer_by_layer.create, options.rank, unet_only=options.unet_only) if way == LAYERS else None,
    )  # fmt: skip
    if way == LAYERS:
        step.optimizer = torch.optim.AdamW(step.network.parameters(), lr=1e-4, foreach=True)
    if way in options.optimizers:
        groups = [{"params": list(step.network.parameters())}]
        step.optimizer = build_optimizer(way, None, groups, learning_rate=1e-4).optimizer
        use_kernels(step.optimizer, torch.device(device))
    if way == RECORDED:
        step.parts = count.recorded(step.parts, cuda_recorder)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(WARM_UP + options.steps):
        synchronise(device)
        started = time.perf_counter()
        count.one_step(step)
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:], torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def make_tiny(family: str) -> None:
    """The same layers, but narrow."""
    count.UNETS[family] |= TINY[family]
    count.CLIP_L |= TINY_CLIP
    count.CLIP_BIGG |= TINY_CLIP | {"projection_dim": 64}


def in_its_own_process(options: argparse.Namespace, device: str, way: str) -> tuple[list[float], float]:
    """`seconds_of_steps` where neither memory nor settings are left over from another way."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(seconds_of_steps, options, device, way).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(count.UNETS), default="sd")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=sorted(count.DTYPES), default="bf16")
    parser.add_argument("--size", type=int, help="side of the square image in pixels (default: 512, sdxl 1024, tiny 128)")
    parser.add_argument("--unet_only", action="store_true")
    parser.add_argument("--gradient_checkpointing", nargs="?", const=True, default=False, choices=("selective",), help="as in training")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each turn (default: 10)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way (default: 2)")
    parser.add_argument("--tiny", action="store_true", help="the same layers, but narrow: to see that this program works")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plain", action="store_true", help="plain torch only")
    only.add_argument("--no_plain", action="store_true", help="ours only")
    parser.add_argument("--layers", action="store_true", help="also a LoRA computed layer by layer, as sd-scripts does")
    parser.add_argument("--cuda_graph", action="store_true", help="ours a second time, with U-Net and text encoder as CUDA graphs")
    parser.add_argument("--optimizers", nargs="+", default=[], metavar="NAME", help="also ours with each of these: Lion Prodigy ...")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.size = options.size or (128 if options.tiny else 1024 if options.family == "sdxl" else 512)
    dtype = count.DTYPES[options.precision]
    if device == "cuda" and dtype != torch.float32 and not options.plain and not kernels_for(torch.device(device), dtype):
        sys.exit("the kernels do not run here: see library/kernels/pointwise.py, or use --plain")
    if device == "cpu" and dtype != torch.float32 and not options.plain:
        sys.exit(f"--precision {options.precision} has no kernels on the CPU: use --precision no")
    if options.cuda_graph and (device == "cpu" or options.plain):
        sys.exit("--cuda_graph needs a CUDA GPU, and our kernels: leave --plain out")
    chosen = [PLAIN] if options.plain else [OURS] if options.no_plain else [OURS, PLAIN]
    chosen += [RECORDED] if options.cuda_graph else []
    chosen += [LAYERS] if options.layers else []
    chosen += options.optimizers
    seconds: dict[str, list[float]] = {way: [] for way in chosen}
    peaks: dict[str, float] = dict.fromkeys(chosen, 0.0)
    for number in range(options.rounds):
        for way in chosen if number % 2 == 0 else chosen[::-1]:
            taken, peak = in_its_own_process(options, device, way)
            seconds[way] += taken
            peaks[way] = max(peaks[way], peak)
    figures = {way: {"median": statistics.median(seconds[way]), "min": min(seconds[way]), "peak_gib": peaks[way]} for way in chosen}
    if options.json:
        print(json.dumps({"device": device_name(device), "torch": torch.__version__, "options": vars(options), **figures}))
        return
    print(f"{options.family}{', tiny' if options.tiny else ''}, {options.size} px, batch {options.batch}, rank {options.rank}, "
          f"{options.precision}, {device_name(device)}, torch {torch.__version__}")  # fmt: skip
    for way, figure in figures.items():
        median, least = (figure[name] * 1e3 for name in ("median", "min"))
        print(f"  {way:11} median {median:9.1f} ms   min {least:9.1f} ms   peak {figure['peak_gib']:6.2f} GiB")
    for way in chosen[1:]:
        print(f"  {way} takes {figures[way]['median'] / figures[chosen[0]]['median']:.2f} times as long as {chosen[0]}")


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
