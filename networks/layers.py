"""What every adapter does to one layer, and the LoRA of a Linear and of a Conv2d (arXiv:2106.09685).

    y = layer(x) + multiplier * alpha / rank * up(drop(down(x)))

The wrapped layer stays as it is: only its `forward` is replaced on the instance, and it is no child of the adapter, so
that neither its weights nor its names ever enter the adapter's state_dict.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from library.kernels.low_rank import conv_with_low_rank, linear_with_low_rank
from networks.changes import Change, LowRank
from networks.magnitude import decomposed_delta, decomposed_forward, first_magnitude, magnitude_ratio
from networks.targets import Target


@dataclass(frozen=True)
class Dropout:
    """Probabilities, used in training only. None or 0 is off."""

    neuron: float | None = None  # --network_dropout: ordinary dropout on the rank-sized activations
    rank: float | None = None  # leaves whole ranks out, per sample
    module: float | None = None  # leaves the whole adapter out for one call


class AdapterModule(nn.Module):
    """The adapter of one layer: subclasses hold the weights and say what they add."""

    kind = "LoRA"  # what its file is, whatever way it was trained
    fast_parameters: tuple[str, ...] = ()  # parameters that LoRA+ gives the higher rate, by part of their name
    magnitude_axis: str | None = None  # of DoRA; None: the weight is not decomposed

    def __init__(self, target: Target, rank: int, alpha: float | None, multiplier: float, dropout: Dropout):
        """alpha: None or 0 means `rank`, which makes the scale 1. A whole-number alpha is kept, and saved, as int64."""
        super().__init__()
        self.target = target  # the layer inside it is no child of this module
        self.rank = rank
        self.multiplier = multiplier
        self.dropout = dropout
        self.enabled = True
        self.kept_weight: Tensor | None = None  # the layer's own weight, while `backup_weights` holds it
        self.register_buffer("alpha", torch.tensor(alpha or rank))
        self.scale = float(alpha or rank) / rank

    @property
    def lora_name(self) -> str:
        """The module's name in the file."""
        return self.target.name

    @property
    def same_every_step(self) -> bool:
        """Whether a step can be recorded, as all ask for the same operations; module dropout decides anew in each."""
        return not self.dropout.module

    @property
    def org_module(self) -> nn.Linear | nn.Conv2d:
        """The wrapped layer."""
        return self.target.layer

    def apply_to(self) -> None:
        """Puts this adapter in front of its layer."""
        self.base_forward = self.org_module.forward
        self.org_module.forward = self.forward

    def forward(self, x: Tensor) -> Tensor:
        x = cast_for_autocast(x)
        if not self.enabled or self._left_out():
            return self.base_forward(x)
        return self.answer(x) if self.magnitude_axis is None else self._decomposed_answer(x)

    def answer(self, x: Tensor) -> Tensor:
        """The layer's output with this adapter's part in it."""
        return self.adapt(x, self.base_forward(x))

    def adapt(self, x: Tensor, base: Tensor) -> Tensor:
        """base, the layer's own output for x, with this adapter's part added."""
        return self.dropped(self.change()).add_to(base, x, self.org_module, self.multiplier * self.scale, self.activation_drop())

    def change(self) -> Change:
        """The weight change before scale and multiplier."""
        raise NotImplementedError

    def dropped(self, change: Change) -> Change:
        """The change as training meets it, with parts of it dropped by chance."""
        return change

    def activation_drop(self) -> Callable[[Tensor], Tensor] | None:
        """What training does to the change's rank-sized activations."""
        return None

    def delta_weight(self) -> Tensor:
        """What this adapter adds to the layer's weight at multiplier 1: fp32, in the weight's shape."""
        weight, change = self.org_module.weight, self.change()
        if self.magnitude_axis is not None:
            weight = weight.to(self.dora_scale.device)
            return decomposed_delta(weight, change, self._ratio(weight, change), self.magnitude_axis, self.scale)
        return self.scale * change.dense().view(weight.shape)

    def decompose(self, axis: str) -> None:
        """Makes this a DoRA: `dora_scale` joins the parameters. Once, before `apply_to`."""
        self.magnitude_axis = axis
        squares, magnitude = first_magnitude(self.org_module.weight, axis)
        self.register_buffer("weight_squares", squares, persistent=False)
        self.dora_scale = nn.Parameter(magnitude)

    def _ratio(self, weight: Tensor, change: Change) -> Tensor:
        return magnitude_ratio(self.dora_scale, self.weight_squares, weight, change, self.scale, self.magnitude_axis)

    def _decomposed_answer(self, x: Tensor) -> Tensor:
        layer, change, axis = self.org_module, self.change(), self.magnitude_axis
        with torch.autocast(x.device.type, enabled=False):
            ratio = self._ratio(layer.weight.detach().to(x.device, non_blocking=True), change)  # swapped blocks keep theirs elsewhere
        change, drop = self.dropped(change), self.activation_drop()
        if self.multiplier == 1 and drop is None and self.base_is_plain():
            output = change.stretched_layer(x, layer, self.scale, ratio - 1, axis)
            if output is not None:
                return output
        return decomposed_forward(x, layer, self.base_forward, change, ratio, axis, self.scale, self.multiplier, drop)

    def _apply(self, fn, recurse=True) -> "AdapterModule":
        """Casts and moves the module, but magnitudes stay fp32: in bf16 their rounding would outweigh what they learn."""
        exact = [] if self.magnitude_axis is None else [self.dora_scale.data, self.weight_squares]
        super()._apply(fn, recurse)
        if exact:
            self.dora_scale.data, self.weight_squares = (tensor.to(self.alpha.device) for tensor in exact)
        return self

    @torch.no_grad()
    def merge(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> None:
        """Adds the adapter to the layer's weight for good: computed in fp32 on `device`, rounded to `dtype`."""
        weight = self.org_module.weight
        device = device or weight.device
        delta = self.to(device).delta_weight() * self.multiplier
        merged = weight.to(device, torch.float32) + delta.view_as(weight)
        weight.copy_(merged.to(dtype or weight.dtype))

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer gets, with names."""
        return self.named_parameters()

    def factor_shares(self) -> tuple[list[nn.Parameter], float]:
        """The parameters whose product the change is, and the power of r each is to be multiplied by so that the change is by r."""
        factors = [parameter for name, parameter in self.named_parameters() if name != "dora_scale"]
        return factors, 1 / len(factors)

    def follow_alpha(self) -> None:
        """Takes the scale from the `alpha` buffer, after a file has filled it."""
        self.scale = float(self.alpha) / self.rank

    def base_is_plain(self) -> bool:
        """Whether the wrapped layer does nothing but its own product with a frozen weight, so that it can be fused with the adapter."""
        layer = self.org_module
        own_forward = getattr(self.base_forward, "__func__", None)
        simple = isinstance(layer, nn.Linear) or (
            layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        )
        return (
            simple
            and own_forward in (nn.Linear.forward, nn.Conv2d.forward)
            and not layer.weight.requires_grad
            and not layer._forward_hooks
            and not layer._forward_pre_hooks
        )

    def _left_out(self) -> bool:
        """Draws module dropout. From the CPU generator, so that no device is waited for."""
        p = self.dropout.module
        return bool(self.training and p and torch.rand(1) < p)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        stored = state_dict.get(prefix + "alpha")
        if stored is not None and stored.is_floating_point() and not self.alpha.is_floating_point():
            self.alpha = self.alpha.float()  # copying 0.5 into an int64 buffer would give 0
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.follow_alpha()


class LoRAModule(AdapterModule):
    """Shared by both layer kinds: initial weights, dropout, and the factors as matrices."""

    fast_parameters = ("lora_up",)
    shadow: tuple[Tensor, Tensor] | None = None  # low-precision copies of down and up to compute with, see networks.shadow
    lora_down: nn.Linear | nn.Conv2d
    lora_up: nn.Linear | nn.Conv2d

    def init_weights(self) -> None:
        """Kaiming-uniform down, zero up: the first step starts from the base model exactly."""
        nn.init.kaiming_uniform_(self.lora_down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_up.weight)

    def computing_weights(self) -> tuple[Tensor, Tensor]:
        """down and up as the step uses them: the shadow's while there is one, which autograd then sees in place of the weights."""
        return self.shadow or (self.lora_down.weight, self.lora_up.weight)

    def factors(self) -> tuple[Tensor, Tensor]:
        """down (rank, inputs of one output) and up (out, rank) as matrices."""
        return self.lora_down.weight.flatten(1), self.lora_up.weight.flatten(1)

    def change(self) -> LowRank:
        return LowRank(self.lora_down.weight, self.lora_up.weight.flatten(1))

    def activation_drop(self) -> Callable[[Tensor], Tensor] | None:
        if not self.training or not (self.dropout.neuron or self.dropout.rank):
            return None
        axis = -1 if isinstance(self.org_module, nn.Linear) else 1
        return lambda hidden: self._drop(hidden, axis)

    def _drop_mask(self, shape: Sequence[int], rank_axis: int, like: Tensor) -> Tensor | None:
        """What `_drop` would multiply rank-sized activations of `shape` by, None if nothing is dropped."""
        if not self.training or not (self.dropout.neuron or self.dropout.rank):
            return None
        return self._drop(like.new_ones(shape), rank_axis)

    def _drop(self, hidden: Tensor, rank_axis: int) -> Tensor:
        if self.dropout.neuron:
            hidden = F.dropout(hidden, self.dropout.neuron, self.training)
        if self.dropout.rank and self.training:
            hidden = drop_ranks(hidden, self.dropout.rank, rank_axis)
        return hidden


class LoRALinear(LoRAModule):
    """LoRA of a Linear layer: down (rank, in), up (out, rank)."""

    def __init__(self, target: Target, rank: int, alpha: float | None, multiplier: float, dropout: Dropout):
        super().__init__(target, rank, alpha, multiplier, dropout)
        self.lora_down = nn.Linear(target.layer.in_features, rank, bias=False, device="cpu", dtype=torch.float32)
        self.lora_up = nn.Linear(rank, target.layer.out_features, bias=False, device="cpu", dtype=torch.float32)
        self.init_weights()

    def answer(self, x: Tensor) -> Tensor:
        if not self.base_is_plain():
            return super().answer(x)
        layer, (down, up) = self.org_module, self.computing_weights()
        mask = self._drop_mask((*x.shape[:-1], self.rank), -1, x)
        return linear_with_low_rank(x, layer.weight, layer.bias, down, up, self.multiplier * self.scale, mask)


class LoRAConv(LoRAModule):
    """LoRA of a Conv2d: down (rank, in, kh, kw) moves over the picture as the layer does, up (out, rank, 1, 1) mixes channels."""

    def __init__(self, target: Target, rank: int, alpha: float | None, multiplier: float, dropout: Dropout):
        super().__init__(target, rank, alpha, multiplier, dropout)
        layer = target.layer
        place = {"bias": False, "device": "cpu", "dtype": torch.float32}
        self.lora_down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, **place)
        self.lora_up = nn.Conv2d(rank, layer.out_channels, (1, 1), **place)
        self.init_weights()

    def answer(self, x: Tensor) -> Tensor:
        layer = self.org_module
        if not self.base_is_plain():
            return super().answer(x)
        down, up = self.computing_weights()
        mask = self._drop_mask(hidden_shape(x, layer, self.rank), 1, x)
        places = {"stride": layer.stride, "padding": layer.padding}
        return conv_with_low_rank(x, layer.weight, layer.bias, down, up, self.multiplier * self.scale, mask, **places)


def lora_module(target: Target, rank: int, alpha: float | None, multiplier: float, dropout: Dropout) -> LoRAModule:
    """The LoRA that fits the target's layer."""
    kind = LoRALinear if isinstance(target.layer, nn.Linear) else LoRAConv
    return kind(target, rank, alpha, multiplier, dropout)


def hidden_shape(x: Tensor, layer: nn.Conv2d, rank: int) -> tuple[int, ...]:
    """The shape (B, rank, H, W) of the rank-sized activations of a convolution."""
    extents = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True)
    return (x.shape[0], rank, *((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in extents))


def drop_ranks(hidden: Tensor, p: float, rank_axis: int) -> Tensor:
    """Zeroes each sample's ranks with probability p and scales the rest by 1 / (1 - p)."""
    shape = [hidden.shape[0]] + [1] * (hidden.dim() - 1)
    shape[rank_axis] = hidden.shape[rank_axis]
    keep = torch.rand((hidden.shape[0], hidden.shape[rank_axis]), device=hidden.device) > p
    return hidden * keep.view(shape) * (1 / (1 - p))


def cast_for_autocast(x: Tensor) -> Tensor:
    """x in the dtype autocast would cast it to, so that layer and adapter share one cast."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
