"""Counts what one training step costs, without a GPU and without computing anything.

python bench/count.py --family sdxl --rank 32 [--batch 1] [--size 1024] [--precision bf16] [--unet_only] [--cached_text]
                      [--plain] [--layers] [--cuda_graph] [--json]

The step of library.training runs on fake tensors, which have shapes but no values, at the full size of the model. Counted are
launches (operations that a GPU would start a kernel for; views are free), host reads (each makes the host wait for the GPU), FLOPs
of matrix products and convolutions, bytes read and written by all operations, and the most memory live at once. Exact and repeatable,
so a test can hold the line; what a launch costs on a card is for bench/step.py to measure. With --cuda_graph a recorded part is one
launch forward and one backward; FLOPs, bytes and peak are then those of the step without.
"""

import argparse
import contextlib
import functools
import json
import logging
import math
import random
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench import layer_by_layer
from library.data.batch import Batch
from library.diffusion.losses import LossSettings
from library.diffusion.noise import NoiseSettings
from library.kernels.attention import own_attention
from library.kernels.frozen_conv import own_frozen_convolutions
from library.kernels.layout import own_layout
from library.kernels.pointwise import Pointwise
from library.kernels.recompute import CheapOutputs
from library.kernels.replay import Leaves, Record, Replays
from library.kernels.unet_pointwise import own_pointwise
from library.models.family import Models
from library.models.sd import SD
from library.models.sdxl import SDXL
from library.training.recording import PARTS
from library.training.step import StepParts, StepSettings, training_loss
from networks import lora

UNETS = {
    "sd": {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
CLIP_BIGG = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OWN_KERNELS = "lora_kernels"  # operators that are one kernel each
RECORDED_BY = 2  # steps: the first of each shape runs as usual
NO_KERNEL = ("detach", "alias", "_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh")


def product_flops(result: torch.Size, a: torch.Size, b: torch.Size, **_) -> int:
    """FLOPs of a matrix product, batched or not, of these shapes."""
    return 2 * math.prod(a) * b[-1]


# Torch counts the FLOPs of the forms that are not in place only.
IN_PLACE_FLOPS = {torch.ops.aten.addmm_: product_flops, torch.ops.aten.baddbmm_: product_flops}


@dataclass
class Counts:
    """launches, host_reads: how many. bytes: read and written. peak_bytes: of tensors made in the step, models not included.

    trained: numbers the optimizer changes.
    """

    launches: int = 0
    host_reads: int = 0
    flops: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    trained: int = 0


class Counter(TorchDispatchMode):
    """Sees every operation; a value asked for by the host is answered with 1, as fake tensors have none.

    on_host: tensors that lie in the host's memory in a real run, so that reading them waits for nothing.
    """

    def __init__(self, on_host: list[Tensor]):
        super().__init__()
        self.on_host = on_host
        self._ids_on_host = {id(tensor) for tensor in on_host}
        self.counts = Counts()
        self.by_operation: dict[str, int] = {}
        self._live: dict[int, int] = {}
        self._live_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, name = func._schema.name.split("::")
        if name == "_local_scalar_dense":
            self.counts.host_reads += id(args[0]) not in self._ids_on_host
            return 1.0 if args[0].is_floating_point() else 1
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if namespace in ("aten", OWN_KERNELS) and not self._is_free(func, name):
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.counts.launches += 1
            self.by_operation[name] = self.by_operation.get(name, 0) + 1
            self.counts.bytes += sum(tensor.nbytes for tensor in inputs + outputs)
        for tensor in outputs:
            self._track(tensor)
        return result

    @staticmethod
    def _is_free(func, name: str) -> bool:
        return func.is_view or name.split(".")[0] in NO_KERNEL

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        self._live[key] = storage.nbytes()
        self._live_bytes += storage.nbytes()
        self.counts.peak_bytes = max(self.counts.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._live_bytes -= self._live.pop(key, 0)


def full_size_models(family: str, dtype: torch.dtype) -> Models:
    """The real shapes, on fake tensors when a FakeTensorMode is active."""
    torch.set_default_dtype(dtype)
    unet = UNet2DConditionModel(**UNETS[family], sample_size=64)
    vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    encoders: list[nn.Module] = [CLIPTextModel(CLIPTextConfig(**CLIP_L))]
    if family == "sdxl":
        encoders.append(CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIGG)))
    torch.set_default_dtype(torch.float32)
    for module in (unet, *encoders):
        module.requires_grad_(False).eval()
    return Models(unet, vae, encoders)


def sample_batch(batch: int, size: int, encoders: int, text_states: dict[str, Tensor] | None) -> Batch:
    """Cached latents of one bucket, captions of 77 tokens."""
    sizes = torch.full((batch, 2), size)
    return Batch(
        captions=["a cat"] * batch,
        image_keys=["a.png"] * batch,
        loss_weights=torch.ones(batch),
        original_sizes_hw=sizes,
        crop_top_lefts=torch.zeros(batch, 2, dtype=torch.int64),
        target_sizes_hw=sizes,
        flipped=[False] * batch,
        bucket=(size, size),
        latents=torch.randn(batch, 4, size // 8, size // 8),
        input_ids=None if text_states else [torch.randint(0, 49000, (batch, 1, 77)) for _ in range(encoders)],
        text_states=text_states,
        custom_attributes=[{}] * batch,
    )


def cached_text_states(batch: int, encoders: list[nn.Module]) -> dict[str, Tensor]:
    """What --cache_text_encoder_outputs keeps: states of 77 tokens, pooled ones where a second encoder makes them."""
    width = sum(encoder.config.hidden_size for encoder in encoders)
    states = {"prompt_embeds": torch.randn(batch, 77, width)}
    if len(encoders) > 1:
        states["pooled_prompt_embeds"] = torch.randn(batch, encoders[-1].config.projection_dim)
    return states


@dataclass
class Prepared:
    """All that `one_step` takes."""

    data: Batch
    parts: StepParts
    settings: StepSettings
    network: nn.Module
    optimizer: torch.optim.Optimizer


def prepared_step(
    models: Models, family: str, *, rank: int, batch: int, size: int, dtype: torch.dtype, unet_only: bool, cached_text: bool = False,
    kernels: bool = True, checkpointing: bool | str = False, device: str = "cpu",
    create: Callable[[Any, nn.Module], nn.Module] | None = None,
) -> Prepared:  # fmt: skip
    """A step of these models, set up as `prepare` of library.training does on a GPU."""
    half = kernels and dtype != torch.float32
    cheap = CheapOutputs() if checkpointing == "selective" else None
    own_attention(models.unet)
    own_pointwise(models.unet, Pointwise(half, cheap))
    if cheap is not None:
        cheap.keeping_recipes(models.unet)
    kind = SDXL() if family == "sdxl" else SD()
    text_encoder = kind.text_encoder_for_network(models)
    if create is None:
        network = lora.create_network(1.0, rank, rank / 2, models.vae, text_encoder, models.unet)
        network.apply_to(text_encoder, models.unet, not unet_only, True)
    else:
        network = create(text_encoder, models.unet)
    own_layout(models.unet, torch.channels_last if half else torch.contiguous_format)
    if kernels:
        own_frozen_convolutions(models.unet)
    if checkpointing is True:
        kind.enable_gradient_checkpointing(models, train_text_encoders=not unet_only)
    network.requires_grad_(True)
    if device != "cpu":
        network.to(device)
    if dtype != torch.float32 and hasattr(network, "compute_in"):
        network.compute_in(dtype)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    parts = StepParts(
        family=kind,
        models=models,
        network=network,
        objective=SD().objective(False).to(device),
        autocast=lambda: torch.autocast(device, dtype) if dtype != torch.float32 else contextlib.nullcontext(),
        python_random=random,
    )
    settings = StepSettings(NoiseSettings(), LossSettings(), not unet_only, 1, dtype, False)
    text_states = cached_text_states(batch, models.text_encoders) if cached_text else None
    data = sample_batch(batch, size, len(models.text_encoders), text_states).to(device)
    make_state(optimizer, network)
    return Prepared(data, parts, settings, network, optimizer)


def count_step(
    family: str, *, batch: int, size: int, precision: str, with_flops: bool = True, cuda_graph: bool = False, **settings
) -> Counter:
    """One micro step with its update, the optimizer's state being there already; `settings` are those of `prepared_step`.

    rank, unet_only; cached_text: no text encoder runs. kernels: those for norms and gates, the layout and the frozen convolutions.
    checkpointing: --gradient_checkpointing. create: makes another network than LoRA, in place, from text encoder and U-Net.
    with_flops: off halves the time it takes. cuda_graph: launches and reads are those with recordings.
    """
    dtype = DTYPES[precision]
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = prepared_step(full_size_models(family, dtype), family, batch=batch, size=size, dtype=dtype, **settings)
        counter = Counter(on_host=[state["step"] for state in step.optimizer.state.values()])
        flops = FlopCounterMode(display=False, custom_mapping=IN_PLACE_FLOPS) if with_flops else None
        with flops or contextlib.nullcontext(), counter:
            one_step(step)
        counter.counts.flops = flops.get_total_flops() if flops else 0
        counter.counts.trained = sum(parameter.numel() for parameter in step.network.parameters())
        if cuda_graph:
            count_recorded(step, counter)
    return counter


def count_recorded(step: Prepared, counter: Counter) -> None:
    """Puts the launches and host reads of a step whose recordings were made before into `counter`."""
    recorder = OneLaunch()
    step.parts = recorded(step.parts, lambda: recorder)
    for _ in range(RECORDED_BY):
        one_step(step)
    recorder.replayed = 0
    again = Counter(counter.on_host)
    with again:
        one_step(step)
    counter.counts.launches, counter.counts.host_reads = again.counts.launches + recorder.replayed, again.counts.host_reads
    counter.by_operation = again.by_operation


class OneLaunch:
    """A stand-in for CUDA graphs: what is recorded runs once, and each replay is one launch and nothing else."""

    def __init__(self) -> None:
        self.replayed = 0

    def __call__(self, work: Callable) -> tuple[object, Callable[[], None]]:
        return work(), self._replay

    def _replay(self) -> None:
        self.replayed += 1


def recorded(parts: StepParts, recorder: Callable[[], Record]) -> StepParts:
    """The same with U-Net and text encoders recorded, as with --cuda_graph auto."""
    leaves = Leaves(parts.network.leaves())
    return replace(parts, **{name: Replays(leaves, recorder()) for name in PARTS})


def make_state(optimizer, network: nn.Module) -> None:
    """Lets the optimizer create its state, as the first step of a run does."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def one_step(step: Prepared) -> None:
    """Forward, backward, clipping, update."""
    loss, _ = training_loss(step.data, step.parts, step.settings)
    loss.backward()
    ours = hasattr(step.network, "backward_done")
    if ours:
        step.network.backward_done()
    torch.nn.utils.clip_grad_norm_(step.network.parameters(), 1.0, foreach=True)
    step.optimizer.step()
    if ours:
        step.network.weights_changed()
    step.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(UNETS), default="sd")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="side of the square image in pixels (default: 512, sdxl 1024)")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--unet_only", action="store_true")
    parser.add_argument("--cached_text", action="store_true", help="text encoder outputs come from a cache; needs --unet_only")
    parser.add_argument("--gradient_checkpointing", nargs="?", const=True, default=False, choices=("selective",), help="as in training")
    parser.add_argument("--plain", action="store_true", help="norms and gates by plain torch, contiguous pictures")
    parser.add_argument("--layers", action="store_true", help="nothing of ours: a LoRA computed layer by layer, as sd-scripts does")
    parser.add_argument("--cuda_graph", action="store_true", help="U-Net and text encoders recorded, as with --cuda_graph auto")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    options = parser.parse_args()
    if options.cached_text and not options.unet_only:
        parser.error("--cached_text needs --unet_only: text encoders that are trained must run")
    size = options.size or (1024 if options.family == "sdxl" else 512)
    counter = count_step(
        options.family,
        rank=options.rank,
        batch=options.batch,
        size=size,
        precision=options.precision,
        unet_only=options.unet_only,
        cached_text=options.cached_text,
        kernels=not (options.plain or options.layers),
        checkpointing=options.gradient_checkpointing,
        cuda_graph=options.cuda_graph,
        create=functools.partial(layer_by_layer.create, options.rank, unet_only=options.unet_only) if options.layers else None,
    )
    counts = counter.counts
    if options.json:
        print(json.dumps(asdict(counts)))
        return
    print(f"{options.family}, rank {options.rank}, batch {options.batch}, {size} px, {options.precision}: one step")
    print(f"  launches    {counts.launches:>12,}")
    print(f"  host reads  {counts.host_reads:>12,}")
    print(f"  FLOPs       {counts.flops / 1e12:>12.3f} T")
    print(f"  bytes       {counts.bytes / 2**30:>12.2f} GiB read and written")
    print(f"  peak        {counts.peak_bytes / 2**30:>12.2f} GiB beside the models")
    for name, number in sorted(counter.by_operation.items(), key=lambda item: -item[1])[:15]:
        print(f"    {number:>6} {name}")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
