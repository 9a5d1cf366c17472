"""The difference between two models as a LoRA: the best one of a given rank for each layer, one layer in memory at a time."""

import logging
import math
import re

import torch
from torch import Tensor

from library.models.configs import SD2_TEXT_LAYERS
from library.models.kinds import SD2
from library.models.streams import Stream
from networks.files.algebra import layer_shape_of, lora_parts, svd_of
from networks.files.combine import clamped, truncated
from networks.files.names import section
from networks.files.places import Place, kind_of_model, places

logger = logging.getLogger(__name__)

TRANSFORMER = re.compile(r"transformer_blocks_.*(to_[qkv]|to_out_0|net_0_proj|net_2)$|_proj_(in|out)$")
CONVOLUTION = re.compile(
    r"_(conv1|conv2|time_emb_proj|conv_shortcut|in_layers_2|emb_layers_1|out_layers_3|skip_connection|op|samplers_0_conv)$"
    r"|samplers_0_conv$|output_blocks_\d+_[12]_conv$"
)
TEXT = re.compile(r"_(self_attn_([qkv]|out)_proj|mlp_fc[12])$")
LAYER = re.compile(r"_layers_(\d+)_")


def target_places(model: Stream, kind: str, *, with_conv: bool) -> dict[str, Place]:
    """The layers that a LoRA wraps: see networks.targets, here told from names in a file."""
    found = places(model.tensors, kind)
    layers = {int(number[1]) for number in map(LAYER.search, found) if number}
    unused = f"_layers_{max(layers)}_" if kind == SD2 and len(layers) != SD2_TEXT_LAYERS else "no layer"
    chosen = {}
    for module, place in found.items():
        if section(module) == "text_encoder":
            wanted = bool(TEXT.search(module)) and unused not in module
        else:
            wanted = module.startswith("lora_unet_") and bool(TRANSFORMER.search(module) or (with_conv and CONVOLUTION.search(module)))
        if wanted:
            chosen[module] = place
    return chosen


@torch.no_grad()
def extracted(
    original: Stream, tuned: Stream, *, dim: int, conv_dim: int | None, clamp_quantile: float, min_diff: float,
    load_dtype: torch.dtype | None, device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], float]:  # fmt: skip
    """LoRA tensors for tuned - original, fp32, alpha = rank, and the error as a share of the whole difference's norm.

    conv_dim: the rank of kernels larger than 1x1; None leaves the layers outside transformers alone. min_diff: text encoders
    that differ nowhere by more than this are left out. load_dtype: what both models are rounded to first, None for neither.
    Raises ValueError if the two are no models of one kind and size.
    """
    kind = kind_of_model(original.tensors, original.path)
    if kind_of_model(tuned.tensors, tuned.path) != kind:
        raise ValueError(f"--model_org {original.path} is {kind}, but --model_tuned {tuned.path} is another kind of model")
    found = target_places(original, kind, with_conv=conv_dim is not None)
    theirs = places(tuned.tensors, kind)

    def difference(module: str) -> Tensor:
        first = _layer(original, found[module], load_dtype)
        second = _layer(tuned, theirs.get(module) or found[module], load_dtype)
        if first.numel() != second.numel():
            raise ValueError(f"{module} has shape {tuple(first.shape)} in --model_org and {tuple(second.shape)} in --model_tuned")
        return second.reshape(first.shape).float() - first.float()

    encoders = [module for module in found if section(module) == "text_encoder"]
    if not any(float(difference(module).abs().max()) > min_diff for module in encoders):
        logger.info("text encoders differ by no more than --min_diff %g: they are left out", min_diff)
        found = {module: place for module, place in found.items() if module not in set(encoders)}
    tensors: dict[str, Tensor] = {}
    whole = lost = 0.0
    for module in found:
        change = difference(module).to(device)
        shape = layer_shape_of(module, change)
        rank = conv_dim if tuple(shape[2:]) not in ((), (1, 1)) and conv_dim is not None else dim
        svd = svd_of([], change.flatten(1))
        down, up = truncated(svd, min(rank, len(svd.s)))
        if clamp_quantile < 1:
            down, up = clamped(down, up, clamp_quantile)
        whole += float(change.double().square().sum())
        lost += float((up @ down - change.flatten(1)).double().square().sum())
        made = lora_parts(down, up, down.shape[0], shape)
        tensors |= {f"{module}.{part}": tensor.cpu() for part, tensor in made.items()}
    return tensors, math.sqrt(lost / whole) if whole else 0.0


def _layer(model: Stream, place: Place, dtype: torch.dtype | None) -> Tensor:
    """A layer's weight; the key of a layer that a file lacks is an error with the file's name."""
    if place.key not in model.tensors:
        raise ValueError(f"{model.path} is not a whole model: it lacks {place.key}")
    tensor = model.tensors[place.key].read()
    tensor = tensor if place.third is None else tensor.chunk(3)[place.third]
    return tensor.to(dtype or tensor.dtype)
