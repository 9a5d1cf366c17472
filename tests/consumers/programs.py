"""What A1111 1.10, ComfyUI (2025) and diffusers accept in an adapter file, and what they make of it, in our own words.

A program is a table: names of modules it knows, tensors a module may consist of, what happens to others, and the weight it ends up with.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]

LORA, LOHA = {"lora_up.weight", "lora_down.weight"}, {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
LOKR = [{first, *second} for first in ("lokr_w1",) for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))]
KERNELS = ["lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2"]

TE_LAYER = r"text_model_encoder_layers_\d+_(self_attn_(k|v|q|out)_proj|mlp_fc[12])"
DIFFUSERS_BLOCK = r"(down_blocks_\d_|up_blocks_\d_|mid_block_)(attentions|resnets|downsamplers|upsamplers)_\d_\w+"
ORIGINAL_BLOCK = r"(input_blocks_\d+_\d|output_blocks_\d+_\d|middle_block_\d)_\w+"


@dataclass(frozen=True)
class Program:
    """names: patterns of module names. sets: the tensors a module must have all of. more: tensors it may have besides.

    refuses_others: whether a tensor it does not know stops the whole file. removed: tensors dropped unseen.
    merged: the layer's weight with a module applied at strength 1.
    """

    name: str
    names: tuple[str, ...]
    sets: tuple[frozenset[str], ...]
    more: frozenset[str]
    refuses_others: bool
    merged: Callable[[Tensor, Parts], Tensor]
    removed: frozenset[str] = frozenset()

    def verdict(self, module: str, parts: Parts) -> str:
        """"applied", "ignored" or "refused"."""
        known = any(re.fullmatch(pattern, module) for pattern in self.names)
        left = set(parts) - self.removed - self.more
        if known and any(left == needed for needed in self.sets):
            return "applied"
        return "refused" if self.refuses_others else "ignored"


def change(parts: Parts, shape: torch.Size) -> Tensor:
    """The change of a LoRA, LoHa or LoKr, on which all programs agree: alpha / rank, once; 1 where both Kronecker factors are whole."""
    parts = {name: tensor.float() for name, tensor in parts.items()}
    if "lora_up.weight" in parts:
        down, up = parts["lora_down.weight"], parts["lora_up.weight"]
        return (float(parts["alpha"]) / down.shape[0] * up.flatten(1) @ down.flatten(1)).reshape(shape)
    if "hada_w1_a" in parts:
        scale = float(parts["alpha"]) / parts["hada_w1_b"].shape[0]
        return (scale * pair(parts, "hada_w1", "hada_t1") * pair(parts, "hada_w2", "hada_t2")).reshape(shape)
    if "lokr_w2" in parts:
        return kron(parts["lokr_w1"], parts["lokr_w2"]).reshape(shape)
    scale = float(parts["alpha"]) / parts["lokr_w2_b"].shape[0]
    second = pair(parts, "lokr_w2", "lokr_t2")
    if len(shape) > 2 and second.dim() == 2:
        second = second.reshape(second.shape[0], -1, *shape[2:])
    return scale * kron(parts["lokr_w1"], second).reshape(shape)


def pair(parts: Parts, name: str, core: str) -> Tensor:
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    return torch.einsum("ij...,ip,jq->pq...", parts[core], a, b) if core in parts else a @ b


def kron(first: Tensor, second: Tensor) -> Tensor:
    return torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - 2)), second.contiguous())


def length(weight: Tensor, axis: int) -> Tensor:
    """The norm over all axes but one, in a shape that broadcasts."""
    return weight.square().sum([other for other in range(weight.dim()) if other != axis], keepdim=True).sqrt()


def merged_by_a1111(weight: Tensor, parts: Parts) -> Tensor:
    """Magnitudes always belong to input channels, whatever their shape; blocks of kohya's OFT turn the rows."""
    if "oft_blocks" in parts:
        blocks = parts["oft_blocks"].float()
        skew = blocks - blocks.mT
        norm, limit = skew.norm(), float(parts["alpha"]) * weight.shape[0]
        skew = skew * (norm.clamp(max=limit) + 1e-8) / (norm + 1e-8)
        eye = torch.eye(skew.shape[-1])
        turn = (eye + skew) @ torch.linalg.inv(eye - skew)
        rows = weight.unflatten(0, (blocks.shape[0], -1))
        return torch.einsum("knm,kn...->km...", turn, rows).flatten(0, 1)
    turned = weight + change(parts, weight.shape)
    return turned * (parts["dora_scale"] / length(turned, 1)) if "dora_scale" in parts else turned


def merged_by_comfyui(weight: Tensor, parts: Parts) -> Tensor:
    """Magnitudes by output channel are divided by the norm of the base weight, those by input channel by that of the changed one."""
    turned = weight + change(parts, weight.shape)
    if "dora_scale" not in parts:
        return turned
    by_output = parts["dora_scale"].shape[0] == weight.shape[0]
    return turned * (parts["dora_scale"] / (length(weight, 0) if by_output else length(turned, 1)))


def merged_by_diffusers(weight: Tensor, parts: Parts) -> Tensor:
    return weight + change(parts, weight.shape)


A1111 = Program(
    "A1111",
    (rf"lora_unet_({DIFFUSERS_BLOCK}|{ORIGINAL_BLOCK})", rf"lora_te[12]?_{TE_LAYER}", rf"oft_unet_({DIFFUSERS_BLOCK}|{ORIGINAL_BLOCK})"),
    tuple(map(frozenset, [LORA, LOHA, *LOKR, {"oft_blocks"}])),
    frozenset({"alpha", "dora_scale", *KERNELS}),
    True,
    merged_by_a1111,
)
COMFYUI = Program(
    "ComfyUI",
    (rf"lora_unet_({DIFFUSERS_BLOCK}|{ORIGINAL_BLOCK})", rf"lora_te[12]?_{TE_LAYER}"),
    tuple(map(frozenset, [LORA, LOHA, *LOKR])),
    frozenset({"alpha", "dora_scale", *KERNELS}),
    False,
    merged_by_comfyui,
)
DIFFUSERS = Program(
    "diffusers",
    (r"lora_unet_\w+", r"lora_te[12]?_\w+"),
    (frozenset(LORA),),
    frozenset({"alpha"}),
    True,
    merged_by_diffusers,
    removed=frozenset({"dora_scale"}),
)
PROGRAMS = {program.name: program for program in (A1111, COMFYUI, DIFFUSERS)}
