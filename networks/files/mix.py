"""Whole models of one kind mixed weight by weight, one tensor in memory at a time."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from library.models.ldm_keys import UNET_PREFIX
from library.models.original_layout import open_model
from library.models.streams import Stream
from library.saving.streaming import LazyTensor, write_stream
from networks.files.metadata import model_spec
from networks.files.places import kind_of_model
from networks.files.tasks import checked_device, precision

logger = logging.getLogger(__name__)


def mix_files(
    models: Sequence[str] | None, ratios: Sequence[float] | None, output: str | None, *, unet_only: bool, device: str | None,
    work_precision: str, save_precision: str, show_skipped: bool,
) -> None:  # fmt: skip
    """Writes sum(ratio * model). Raises ValueError for missing options, or models of different kinds or sizes."""
    if not models or not output:
        raise ValueError("--models and --output are needed: name the files to mix, and the file to write")
    ratios = ratios or [1 / len(models)] * len(models)
    if len(ratios) != len(models):
        raise ValueError(f"--ratios has {len(ratios)} values for {len(models)} --models: give one for each")
    opened = [open_model(path) for path in models]
    kinds = [kind_of_model(model.tensors, model.path) for model in opened]
    if len(set(kinds)) > 1:
        raise ValueError(f"--models are of different kinds: {', '.join(kinds)}")
    tensors, partial = mixed(opened, ratios, unet_only=unet_only, dtype=precision(work_precision), device=checked_device(device))
    if partial:
        shown = sorted(partial) if show_skipped else []
        logger.warning(
            "%d tensors are not in every model and come from those that have them%s", len(partial), "".join(f"\n  {n}" for n in shown)
        )
    dtype = precision(save_precision)
    write_stream(output, {name: tensor.to(dtype) for name, tensor in tensors.items()}, model_spec(kinds[0], output, opened))
    logger.info("saved %s", output)


def mixed(
    models: Sequence[Stream], ratios: Sequence[float], *, unet_only: bool, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[dict[str, LazyTensor], set[str]]:
    """The mixed tensors, and the names of those that not every model has: their ratios are raised to the same total.

    unet_only: everything outside the U-Net is the first model's.
    """
    names = list(dict.fromkeys(name for model in models for name in model.tensors))
    found: dict[str, LazyTensor] = {}
    partial = set()
    for name in names:
        having = [(model.tensors[name], ratio) for model, ratio in zip(models, ratios) if name in model.tensors]
        if unet_only and not name.startswith(UNET_PREFIX):
            if name in models[0].tensors:
                found[name] = models[0].tensors[name]
            continue
        first = having[0][0]
        if any(tensor.shape != first.shape for tensor, _ in having):
            raise ValueError(f"{name} has different shapes in the models: {', '.join(str(tensor.shape) for tensor, _ in having)}")
        if len(having) < len(models):
            partial.add(name)
        total = sum(ratio for _, ratio in having)
        factor = sum(ratios) / total if total else 1.0
        found[name] = first if not first.dtype.is_floating_point else _sum([(one, ratio * factor) for one, ratio in having], dtype, device)
    return found, partial


def _sum(terms: list[tuple[LazyTensor, float]], dtype: torch.dtype, device: torch.device | str) -> LazyTensor:
    def read() -> Tensor:
        total = torch.zeros(terms[0][0].shape, dtype=dtype, device=device)
        for tensor, ratio in terms:
            total += ratio * tensor.read().to(device, dtype)
        return total

    return LazyTensor(dtype, terms[0][0].shape, read)
