"""Changes that are made of the layer's own weight W (out, in, ...): OFT, BOFT, IA3 and GLoRA.

    OFT   r R W - W, R of rotated blocks      BOFT  the same, R a product of such rotations, each between other rows
    IA3   m W, along outputs or inputs        GLoRA s (W A + B)

The blocks of OFT and BOFT are rotations by Cayley's formula (arXiv:2306.07280, arXiv:2311.06243), r the trained scale of rows that
LyCORIS calls `rescale`. IA3: arXiv:2205.05638. GLoRA: arXiv:2306.07967. All in fp32.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from networks.rotations import cayley_turn

Parts = Mapping[str, Tensor]


def oft_change(module: str, parts: Parts, weight: Tensor) -> Tensor:
    """alpha times outputs bounds the turn; LyCORIS means no bound by 0, kohya's form (module names oft_unet_...) no turn.

    Raises ValueError where the rotations do not fit the layer, or are in a form whose formula is not known.
    """
    if "oft_blocks" not in parts:
        raise ValueError(f"{module} is an OFT of an early LyCORIS (oft_diag), whose formula is not known: only oft_blocks can be merged")
    blocks = parts["oft_blocks"].float()
    count, size, out = blocks.shape[-3], blocks.shape[-1], weight.shape[0]
    if blocks.dim() not in (3, 4) or count * size != out:
        raise ValueError(f"{module} rotates {count} blocks of {size} outputs, its layer in the model has {out}: made for another model")
    limit = float(parts["alpha"]) * out if "alpha" in parts else 0.0
    if limit <= 0 and not module.startswith("oft_unet_"):
        limit = float("inf")
    turn = cayley_turn(blocks, limit)
    rows = weight.flatten(1)
    turned = rows + _block_turn(turn, rows) if blocks.dim() == 3 else _butterfly(turn, rows)
    if "rescale" in parts:
        turned = turned * parts["rescale"].float().reshape(-1, 1)
    return (turned - rows).reshape(weight.shape)


def _block_turn(turn: Tensor, rows: Tensor) -> Tensor:
    """turn: R - I of each block, (blocks, size, size), from the right as LyCORIS and kohya have it. rows: (out, columns)."""
    return torch.einsum("knm,kni->kmi", turn, rows.unflatten(0, (turn.shape[0], -1))).flatten(0, 1)


def _butterfly(turns: Tensor, rows: Tensor) -> Tensor:
    """turns: R - I of each stage and block, (stages, blocks, size, size), from the left. Stage i pairs rows 2**i * size / 2 apart."""
    for stage, turn in enumerate(turns):
        distance = 2**stage * turn.shape[-1] // 2
        paired = rows.unflatten(0, (-1, 2, distance)).transpose(1, 2).flatten(0, 2).unflatten(0, turn.shape[:2])
        paired = paired + torch.einsum("bij,bjc->bic", turn, paired)
        rows = paired.flatten(0, 1).unflatten(0, (-1, distance, 2)).transpose(1, 2).flatten(0, 2)
    return rows


def ia3_change(module: str, parts: Parts, weight: Tensor) -> Tensor:
    """Raises ValueError if there are not as many factors as the layer has inputs or outputs."""
    axis = 1 if float(parts["on_input"]) else 0
    factors = parts["weight"].float().flatten()
    if len(factors) != weight.shape[axis]:
        raise ValueError(f"{module} has {len(factors)} factors, its layer in the model {weight.shape[axis]}: made for another model")
    return weight * factors.reshape(*[1] * axis, -1, *[1] * (weight.dim() - axis - 1))


def glora_change(module: str, parts: Parts, weight: Tensor, scale: float, plain: Tensor) -> Tensor:
    """scale: alpha / rank. plain: s B. Raises ValueError if the layer has another size."""
    a1, a2 = parts["a1.weight"].float().flatten(1), parts["a2.weight"].float().flatten(1)
    if a1.shape[0] != weight.shape[1] or plain.numel() != weight.numel():
        raise ValueError(f"{module} has shape {tuple(plain.shape)}, its layer in the model {tuple(weight.shape)}: made for another model")
    return plain.reshape(weight.shape) + scale * torch.einsum("oi...,ir,rk->ok...", weight, a1, a2)


def adds_nothing(parts: Parts) -> bool:
    """Whether a module of these kinds is still as it was before training: it changes no weight at all."""
    if "on_input" in parts:
        return not parts["weight"].any()
    if "a1.weight" in parts:
        return not any(parts[f"{half}1.weight"].any() and parts[f"{half}2.weight"].any() for half in "ab")
    blocks = parts.get("oft_blocks")
    still = blocks is not None and torch.equal(blocks, blocks.mT)
    return still and bool((parts.get("rescale", torch.ones(1)) == 1).all())
