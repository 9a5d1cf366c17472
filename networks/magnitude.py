"""DoRA (arXiv:2402.09353): a trained magnitude g for every slice of the weight, beside a change D of its direction.

    V = W + s D      W' = g V / |V|      the layer has W + m (W' - W)      (m: the multiplier; 0 is the base model exactly)

A slice is what one input channel reaches ("input", g of shape (1, in, ...)), or what reaches one output channel ("output",
(out, 1, ...), the axis of the paper). |V|² = |W|² + 2 s <W, D> + s² |D|² slice by slice, so neither V nor W' is ever built, and
ratio = g / |V| is applied to the layer's input or output. All of this is fp32, whatever the model's dtype is.

|W| is that of the weight when the adapter is made, which is also what g starts from: at first the ratio is exactly 1, and casting
the model later to bf16 or fp8 does not change that.
"""

import torch
from torch import Tensor, nn

from library.kernels.stretched import stretched
from networks.changes import INPUT, OUTPUT, Change, Kronecker, along, slice_sums

TINY = torch.finfo(torch.float32).eps  # a slice shorter than this counts as this long


def first_magnitude(weight: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """(|W|² of every slice, g to start with in the shape it has in the file), both fp32 on the CPU."""
    squares = slice_sums(weight.detach().float().square(), axis).cpu()
    return squares, along(squares.sqrt(), weight.dim(), 0 if axis == OUTPUT else 1).clone()


def axis_of(magnitude: Tensor, weight: Tensor) -> str:
    """Which axis a stored dora_scale belongs to. Raises ValueError if it fits neither."""
    if magnitude.shape[0] == weight.shape[0] and magnitude.numel() == weight.shape[0]:
        return OUTPUT
    if magnitude.numel() == weight.shape[1]:
        return INPUT
    raise ValueError(f"a dora_scale of shape {tuple(magnitude.shape)} fits no layer of shape {tuple(weight.shape)}")


def magnitude_ratio(magnitude: Tensor, weight_squares: Tensor, weight: Tensor, change: Change, scale: float, axis: str) -> Tensor:
    """g / |V| of every slice, (out,) or (in,). weight_squares: |W|² of every slice."""
    squares = weight_squares + change.growth(weight, axis, scale)
    return magnitude.flatten().float() / squares.clamp(min=TINY**2).sqrt()


def decomposed_forward(
    x: Tensor, layer: nn.Linear | nn.Conv2d, base_forward, change: Change, ratio: Tensor, axis: str, scale: float, multiplier: float, drop
) -> Tensor:
    """The layer's output for x with the weight W + m (W' - W). scale: s; drop: what happens to the change's activations in training."""
    channels = -1 if isinstance(layer, nn.Linear) else 1
    excess = along(multiplier * (ratio - 1), x.dim(), channels)
    if axis == INPUT:
        longer = stretched(x, excess)
        if multiplier == 1 and isinstance(change, Kronecker):  # which would have to multiply x once more
            return change.add_to(base_forward(longer), longer, layer, scale, drop)
        return change.scaled(inputs=ratio).add_to(base_forward(longer), x, layer, multiplier * scale, drop)
    base = base_forward(x)
    own = base if layer.bias is None else base - along(layer.bias.to(base.dtype), base.dim(), channels)
    grown = torch.addcmul(base, own, excess.to(base.dtype))
    return change.scaled(outputs=ratio).add_to(grown, x, layer, multiplier * scale, drop)


def decomposed_delta(weight: Tensor, change: Change, ratio: Tensor, axis: str, scale: float) -> Tensor:
    """W' - W, fp32, in the weight's shape."""
    weight = weight.float()
    turned = weight + scale * change.dense().view(weight.shape)
    return turned * along(ratio, weight.dim(), 0 if axis == OUTPUT else 1) - weight
