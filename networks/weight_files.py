"""Fitting the tensors of an adapter file to a network: names of other layouts, missing and foreign keys, shapes."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

LAYER_AXES = {"lora_down.weight": 1, "lora_up.weight": 0}  # the axis that the wrapped layer decides, and not the rank


class LoadReport(NamedTuple):
    """Which tensors of a file found their place; printed as one line."""

    loaded: int
    missing_keys: list[str]  # in the network, not in the file
    unexpected_keys: list[str]  # in the file, not in the network

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded"]
        for what, keys in (("not in the file", self.missing_keys), ("without a place in this network", self.unexpected_keys)):
            if keys:
                more = ", ..." if len(keys) > 3 else ""
                parts.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{more})")
        return "; ".join(parts)


def modules_in(weights: Mapping[str, Tensor]) -> set[str]:
    """The module names of a file: what stands before the first dot of each key."""
    return {key.partition(".")[0] for key in weights}


def renamed(weights: Mapping[str, Tensor], names: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """`weights` with modules that carry a diffusers name under the name this suite writes.

    names: pairs (diffusers name, name in our files) of all modules.
    """
    ours = dict(names)
    result = {}
    for key, tensor in weights.items():
        module, dot, rest = key.partition(".")
        result[ours.get(module, module) + dot + rest] = tensor
    return result


def check_same_family(weights: Mapping[str, Tensor], known: Iterable[str], source: str) -> None:
    """Raises ValueError if no module of the file is one of the `known` names."""
    known = list(known)
    found = modules_in(weights)
    if not found.intersection(known):
        raise ValueError(
            f"{source} fits none of this model's layers: it was made for another model family or kind of network. "
            f"The file has {', '.join(sorted(found)[:3]) or 'no tensors'}; this network has {', '.join(known[:3]) or 'no modules'}"
        )


def fitted_shapes(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`weights` in the shapes of the network's own tensors `wanted`: a 1x1 kernel and a matrix are the same numbers.

    Raises ValueError naming the module, ranks or shapes and the way out where they do not fit.
    """
    result = dict(weights)
    for key, tensor in weights.items():
        if key not in wanted or tensor.shape == wanted[key].shape:
            continue
        if _plain_shape(tensor) != _plain_shape(wanted[key]):
            raise ValueError(f"{source}: {_misfit(key, tensor, wanted[key])}")
        result[key] = tensor.reshape(wanted[key].shape)
    return result


def _plain_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape, less a trailing 1x1 kernel; () for any single number."""
    shape = tuple(tensor.shape)
    if tensor.numel() == 1:
        return ()
    return shape[:2] if shape[2:] == (1, 1) else shape


def _misfit(key: str, found: Tensor, wanted: Tensor) -> str:
    """What is wrong with the tensor, and the way out: another model, or another rank."""
    module, _, part = key.partition(".")
    axis = LAYER_AXES.get(part)
    text = f"{part} of {module} has {_size_text(part, found)} in the file, {_size_text(part, wanted)} in the network. "
    if axis is not None and found.shape[axis] != wanted.shape[axis]:
        return text + "The layer itself has another size: the file was made for another model family"
    return text + "Give --network_dim and --network_args as the file was made with, or add --dim_from_weights to follow the file"


def _size_text(part: str, tensor: Tensor) -> str:
    shape = "x".join(str(side) for side in tensor.shape) or "one number"
    return f"rank {tensor.shape[0]} (shape {shape})" if part == "lora_down.weight" else f"shape {shape}"
