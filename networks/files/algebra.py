"""What an adapter's tensors mean: the change of the layer's weight, and its best approximation of a given rank.

    LoRA   s up down                    LoHa  s (w1_a w1_b) o (w2_a w2_b)        LoKr  s w1 (x) w2
    DoRA   g V / |V| - W, V = W + any of these                                   full  diff           OFT and others: of_weight.py

s = alpha / rank. Products are computed in fp32. DoRA and the kinds of of_weight.py need W itself.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from networks.changes import kronecker, tucker_product
from networks.files.names import layer_shape
from networks.files.of_weight import glora_change, ia3_change, oft_change

Parts = Mapping[str, Tensor]

KINDS = {
    "lora_down.weight": "LoRA", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "lokr_w1_a": "LoKr", "diff": "full", "w_norm": "norm",
    "b_norm": "norm", "diff_b": "bias", "oft_blocks": "OFT", "oft_diag": "OFT", "on_input": "IA3", "a1.weight": "GLoRA",
}  # fmt: skip
NEED_THE_WEIGHT = ("DoRA", "OFT", "IA3", "GLoRA")
GLORA_B = {"b2.weight": "lora_down.weight", "b1.weight": "lora_up.weight", "bm.weight": "lora_mid.weight", "alpha": "alpha"}
TINY = 1e-30


@dataclass(frozen=True)
class LowRank:
    """A weight change scale * up @ down. down (rank, inputs of one output), up (out, rank), fp32; shape: the layer's weight."""

    down: Tensor
    up: Tensor
    scale: float
    shape: tuple[int, ...]

    def dense(self) -> Tensor:
        return self.scale * (self.up @ self.down)


def kind_of(parts: Container[str]) -> str:
    """The kind of adapter that these parts make up: a value of KINDS, DoRA for any of them with a magnitude, or "unknown"."""
    kind = next((kind for part, kind in KINDS.items() if part in parts), "unknown")
    return "DoRA" if "dora_scale" in parts and kind != "unknown" else kind


def low_rank(module: str, parts: Parts) -> LowRank | None:
    """A LoRA, or a LoHa of small rank, as the product of two matrices, exactly; None for what is no such product."""
    kind = kind_of(parts)
    if kind == "LoRA":
        down, up = parts["lora_down.weight"].float(), parts["lora_up.weight"].float()
        scale = float(parts["alpha"]) / down.shape[0] if "alpha" in parts else 1.0
        if "lora_mid.weight" in parts:
            down = torch.einsum("mn...,ni->mi...", parts["lora_mid.weight"].float(), down.flatten(1))
        return LowRank(down.flatten(1), up.flatten(1), scale, (up.shape[0], *down.shape[1:]))
    if kind == "LoHa" and "hada_t1" not in parts:
        w1_a, w1_b, w2_a, w2_b = (parts[f"hada_{name}"].float() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
        rank = w1_b.shape[0] * w2_b.shape[0]
        if rank < min(w1_a.shape[0], w1_b.shape[1]):
            up = (w1_a[:, :, None] * w2_a[:, None, :]).flatten(1)  # Khatri-Rao: column (p, q) is w1_a[:, p] * w2_a[:, q]
            down = (w1_b[:, None, :] * w2_b[None, :, :]).flatten(0, 1)
            return LowRank(down, up, _scale(parts, w1_b.shape[0]), layer_shape(module, *up.shape[:1], down.shape[1]))
    return None


def delta(module: str, parts: Parts, weight: Tensor | None = None) -> Tensor:
    """What the adapter adds to the layer's weight at strength 1, fp32, in the weight's shape.

    weight: the layer's own, which NEED_THE_WEIGHT need; without it the shape follows from the tensors and the module's name.
    Raises ValueError for a kind that is not known, or that needs the weight.
    """
    kind = kind_of(parts)
    if weight is None and kind in NEED_THE_WEIGHT:
        raise ValueError(f"{module} is a {kind}: what it does depends on the weight of its layer, so the base model is needed")
    if kind == "OFT":
        return oft_change(module, parts, weight.float())
    if kind == "IA3":
        return ia3_change(module, parts, weight.float())
    if kind == "GLoRA":
        product = low_rank(module, {plain: parts[own] for own, plain in GLORA_B.items() if own in parts})
        return glora_change(module, parts, weight.float(), product.scale, product.dense().reshape(product.shape))
    plain = _plain_delta(module, parts)
    if weight is None:
        return plain
    if plain.numel() != weight.numel():
        raise ValueError(f"{module} has shape {tuple(plain.shape)}, its layer in the model {tuple(weight.shape)}: made for another model")
    plain = plain.reshape(weight.shape)
    return _dora(parts["dora_scale"].float(), weight.float(), plain) if kind == "DoRA" else plain


def _plain_delta(module: str, parts: Parts) -> Tensor:
    """The weight change before any weight decomposition."""
    if "lora_down.weight" in parts:
        product = low_rank(module, {part: tensor for part, tensor in parts.items() if part != "dora_scale"})
        return product.dense().reshape(product.shape)
    if "hada_w1_a" in parts:
        return _loha(module, parts)
    if "lokr_w1" in parts or "lokr_w1_a" in parts:
        return _lokr(module, parts)
    for part in ("diff", "w_norm"):
        if part in parts:
            return parts[part].float()
    raise ValueError(f"{module} is a kind of adapter that cannot be merged here ({', '.join(sorted(parts))})")


def _loha(module: str, parts: Parts) -> Tensor:
    w1_a, w1_b, w2_a, w2_b = (parts[f"hada_{name}"].float() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    scale = _scale(parts, w1_b.shape[0])
    if "hada_t1" in parts:
        return scale * tucker_product(parts["hada_t1"].float(), w1_a, w1_b) * tucker_product(parts["hada_t2"].float(), w2_a, w2_b)
    product = scale * (w1_a @ w1_b) * (w2_a @ w2_b)
    return product.reshape(layer_shape(module, *product.shape))


def _lokr(module: str, parts: Parts) -> Tensor:
    """With both factors whole there is no rank, and alpha has no effect."""
    rank = None
    if "lokr_w1" in parts:
        first = parts["lokr_w1"].float()
    else:
        first, rank = parts["lokr_w1_a"].float() @ parts["lokr_w1_b"].float(), parts["lokr_w1_b"].shape[0]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"].float()
    elif "lokr_t2" in parts:
        rank = parts["lokr_w2_b"].shape[0]
        second = tucker_product(parts["lokr_t2"].float(), parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float())
    else:
        rank = parts["lokr_w2_b"].shape[0]
        second = parts["lokr_w2_a"].float() @ parts["lokr_w2_b"].float()
        # the kernel is flat in w2_b, and belongs to the inputs of w2
        second = second.reshape(layer_shape(module, *second.shape))
    product = kronecker(first, second) * (1.0 if rank is None else _scale(parts, rank))
    return product if product.dim() > 2 else product.reshape(layer_shape(module, *product.shape))


def _scale(parts: Parts, rank: int) -> float:
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def _dora(magnitude: Tensor, weight: Tensor, change: Tensor) -> Tensor:
    """magnitude: one number per output, (out, 1...) or (out,), or per input channel, (1, in, ...). The norm is that of W + change."""
    turned = weight + change
    if magnitude.dim() == 1 or magnitude.shape[0] == turned.shape[0]:
        axes = tuple(range(1, turned.dim()))
        magnitude = magnitude.reshape(-1, *[1] * (turned.dim() - 1))
    else:
        axes = (0, *range(2, turned.dim()))
        magnitude = magnitude.reshape(1, -1, *[1] * (turned.dim() - 2))
    norm = turned.square().sum(axes, keepdim=True).sqrt()
    return turned * (magnitude / (norm + torch.finfo(torch.float32).eps)) - weight


@dataclass(frozen=True)
class Svd:
    """u (out, n), s (n,) falling, vh (n, inputs of one output). total: the sum of all s²; longest: how many there could be."""

    u: Tensor
    s: Tensor
    vh: Tensor
    longest: int

    def share(self, rank: int) -> float:
        """The share of the Frobenius norm that the first `rank` values hold."""
        squares = self.s.double().square()
        return float((squares[:rank].sum() / squares.sum().clamp(min=TINY)).sqrt())

    def error(self, rank: int) -> float:
        """The Frobenius norm of what is left out, as a share of the whole."""
        squares = self.s.double().square()
        return float((squares[rank:].sum() / squares.sum().clamp(min=TINY)).sqrt())


@torch.no_grad()
def svd_of(products: Sequence[LowRank], dense: Tensor | None = None) -> Svd:
    """The singular values of a sum of weight changes. dense: matrix (out, inputs of one output) to add, or None.

    Products alone are decomposed without building the big matrix: QR of both factors, then a rank-sized SVD.
    """
    if dense is None:
        up = torch.cat([product.up * product.scale for product in products], dim=1)
        down = torch.cat([product.down for product in products])
        longest = min(up.shape[0], down.shape[1])
        if up.shape[1] < longest:
            left, right = torch.linalg.qr(up.double()), torch.linalg.qr(down.double().mT)
            u, s, vh = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
            return Svd((left.Q @ u).float(), s.float(), (vh @ right.Q.mT).float(), longest)
        dense = up @ down
    else:
        dense = dense + sum(product.dense() for product in products) if products else dense
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    return Svd(u, s, vh, min(dense.shape))


def total_change(terms: Sequence[tuple[float, str, Parts]], weight: Tensor | None = None) -> tuple[Svd, tuple[int, ...]]:
    """Singular values and layer shape of sum(strength * change) over terms (strength, module, parts)."""
    products: list[LowRank] = []
    dense, shape = None, ()
    for strength, module, parts in terms:
        product = low_rank(module, parts)
        if product is not None:
            products.append(LowRank(product.down, product.up, product.scale * strength, product.shape))
            shape = product.shape
            continue
        change = delta(module, parts, weight)
        shape = tuple(change.shape)
        dense = strength * change.flatten(1) + (0 if dense is None else dense)
    return svd_of(products, dense), shape


def lora_parts(down: Tensor, up: Tensor, alpha: float, shape: Sequence[int]) -> dict[str, Tensor]:
    """LoRA tensors of a layer of this weight shape. down (rank, inputs of one output), up (out, rank)."""
    kernel = tuple(shape[2:])
    return {
        "lora_down.weight": down.reshape(down.shape[0], *shape[1:]).contiguous(),
        "lora_up.weight": up.reshape(*up.shape, *[1 for _ in kernel]).contiguous(),
        "alpha": torch.tensor(float(alpha)),
    }


def layer_shape_of(module: str, weight: Tensor) -> tuple[int, ...]:
    """The shape that an adapter file gives a layer: SD2's linear projections count as 1x1 convolutions there."""
    return tuple(weight.shape) if weight.dim() > 2 else layer_shape(module, *weight.shape)
