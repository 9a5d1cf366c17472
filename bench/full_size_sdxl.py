"""Memory and time of training a LoRA on a model of SDXL's full size, with random weights, on the CPU.

    python bench/full_size_sdxl.py make model.safetensors     write the model: bf16, original layout, 6.9 GB
    python bench/full_size_sdxl.py load model.safetensors     load it, and tell the peak of memory beside the file's size
    python bench/full_size_sdxl.py train model.safetensors    train at 256 pixels with cached latents and captions

Each command is a process of its own, so that its peak is its own. Memory is that of the process as the system counts it, the
pages of mapped files among it.
"""

import argparse
import json
import math
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from library.models.ldm_keys import UNET_PREFIX, VAE_PREFIX, openclip_table, renamed, stacked_projection, vae_table
from library.models.sdxl_keys import TEXT_ENCODER_1_PREFIX, TEXT_ENCODER_2_PREFIX
from library.models.single_file import empty, unet_sources

GIB = 2**30
UNET = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280}


def file_shapes() -> dict[str, tuple[int, ...]]:
    """Name in the original layout -> shape, of every tensor of SDXL."""
    unet = empty(UNet2DConditionModel, **UNET)
    vae = empty(AutoencoderKL, **VAE)
    clip_l = empty(CLIPTextModel, CLIPTextConfig(vocab_size=49408, **CLIP_L))
    clip_g = empty(CLIPTextModelWithProjection, CLIPTextConfig(vocab_size=49408, **CLIP_G))
    vae_names, clip_g_names = vae_table(4, 2), openclip_table(CLIP_G["num_hidden_layers"])
    unet_names = unet_sources(unet)
    shapes = {UNET_PREFIX + unet_names[name][0]: shape for name, shape in shapes_of(unet)}
    shapes |= {VAE_PREFIX + (renamed(name, vae_names) or name): shape for name, shape in shapes_of(vae)}
    shapes |= {TEXT_ENCODER_1_PREFIX + with_level(name): shape for name, shape in shapes_of(clip_l)}
    for name, shape in shapes_of(clip_g):
        stacked = stacked_projection(with_level(name))
        if stacked:
            shapes[TEXT_ENCODER_2_PREFIX + stacked[0]] = (3 * shape[0], *shape[1:])
        elif name == "text_projection.weight":
            shapes[TEXT_ENCODER_2_PREFIX + "text_projection"] = shape
        else:
            shapes[TEXT_ENCODER_2_PREFIX + (renamed(with_level(name), clip_g_names) or name)] = shape
    return shapes


def shapes_of(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items() if not name.endswith("position_ids"))


def with_level(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def random_values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Values as a fresh model has them, so that activations stay finite through all layers."""
    if len(shape) == 1:
        around = 1.0 if name.endswith("weight") else 0.0
        return around + 0.02 * torch.randn(shape, generator=generator)
    if "embedding" in name:
        return 0.02 * torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))


def make(path: Path) -> None:
    """Writes the file tensor by tensor, so that it needs room for one of them only."""
    shapes, header, end = file_shapes(), {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    generator = torch.Generator().manual_seed(0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes.items():
            values = random_values(name, shape, generator).to(torch.bfloat16)
            file.write(memoryview(values.view(torch.uint8).reshape(-1).numpy()))
    print(f"{path}: {len(shapes)} tensors, {end / GIB:.2f} GiB, {end // 2:,} parameters")


def peak() -> float:
    """The most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def load(path: Path) -> None:
    from library.models.sdxl import SDXL

    size, before, began = path.stat().st_size / GIB, peak(), time.perf_counter()
    models = SDXL().load(str(path), dtype=torch.bfloat16)
    seconds = time.perf_counter() - began
    print(f"file {size:.2f} GiB, imports {before:.2f} GiB, loaded in {seconds:.1f} s")
    print(f"peak {peak():.2f} GiB: {peak() / size:.3f} of the file, {(peak() - before) / size:.3f} without the imports")
    assert models.unet.dtype == torch.bfloat16


def train(path: Path, side: int, steps: int, rank: int, precision: str) -> None:
    import sdxl_train_network
    from library.args.reading import read_args
    from library.models.sdxl import SDXL
    from library.training.network_recipe import prepare
    from library.training.network_recipe import train as train_run
    from library.training.settings import fast_arithmetic

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data" / "4_thing"
        data.mkdir(parents=True)
        Image.effect_noise((side, side), 80).convert("RGB").save(data / "picture.png")
        (data / "picture.txt").write_text("a thing, noise")
        argv = f"""--pretrained_model_name_or_path {path} --train_data_dir {data.parent} --output_dir {folder}/out
            --resolution {side} --caption_extension .txt --cache_latents --cache_text_encoder_outputs --network_train_unet_only
            --network_module networks.lora --network_dim {rank} --learning_rate 1e-4 --mixed_precision {precision} --no_half_vae
            --gradient_checkpointing --sdpa --max_train_steps {steps} --max_data_loader_n_workers 0 --seed 1 --save_precision bf16"""
        args = read_args(sdxl_train_network.setup_parser(), sdxl_train_network.SCRIPT, argv.split())
        began = time.perf_counter()
        with fast_arithmetic(args):
            run = prepare(args, SDXL.from_args(args))
            print(f"prepared in {time.perf_counter() - began:.1f} s, peak {peak():.2f} GiB")
            ends = [time.perf_counter()]
            run.watchers.append(lambda step: print(f"loss {float(step.loss):.4f}"))
            run.update_watchers.append(lambda update: ends.append(time.perf_counter()))
            train_run(run)
        per_step = [f"{end - begin:.1f}" for begin, end in pairwise(ends)]
        print(f"seconds of each step: {', '.join(per_step)}; peak {peak():.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "load", "train"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--side", type=int, default=256, help="pixels on a side (default: 256)")
    parser.add_argument("--steps", type=int, default=2, help="(default: 2)")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA (default: 16)")
    parser.add_argument("--precision", default="bf16", help="bf16, or no for fp32, which CPUs without bf16 compute faster (default: bf16)")
    given = parser.parse_args()
    if given.action == "make":
        make(given.file)
    elif given.action == "load":
        load(given.file)
    else:
        train(given.file, given.side, given.steps, given.rank, given.precision)


if __name__ == "__main__":
    main()
