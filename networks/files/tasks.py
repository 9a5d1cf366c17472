"""What the merging programs do, from named options to a written file."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from library.models.original_layout import open_model
from library.saving.streaming import LazyTensor, write_stream
from networks.files.adapter_file import AdapterFile, open_adapter
from networks.files.combine import CLAMP_QUANTILE, Source, merged_by_factors, merged_by_svd
from networks.files.merge import merged_model
from networks.files.metadata import adapter_spec, common_value, first_known, model_spec, network_metadata
from networks.files.places import kind_of_model
from networks.files.strengths import product, strengths

logger = logging.getLogger(__name__)

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class MergeOptions:
    """The options that all merges share. exact: see merged_by_factors; exact svd merges do not clamp."""

    models: Sequence[str]
    ratios: Sequence[float] | None
    save_to: str
    precision: str = "float"
    save_precision: str | None = None
    lbws: Sequence[str] | None = None
    unet_ratios: Sequence[float] | None = None
    te_ratios: Sequence[float] | None = None
    exact: bool = False
    no_metadata: bool = False

    @property
    def work_dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def save_dtype(self) -> torch.dtype:
        return PRECISIONS[self.save_precision or self.precision]

    def sources(self) -> list[Source]:
        """The files with their strengths. Raises ValueError naming the option that is missing or does not fit the others."""
        if not self.save_to:
            raise ValueError("--save_to is missing: name the file to write")
        factors = strengths(self.models or [], self.ratios, self.lbws, self.unet_ratios, self.te_ratios)
        return [Source(open_adapter(path), *pair) for path, pair in zip(self.models, factors, strict=True)]


def merge_options(given: Mapping[str, Any]) -> MergeOptions:
    """The options out of a whole command line."""
    return MergeOptions(**{field.name: given[field.name] for field in fields(MergeOptions)})


def merge_into_model(options: MergeOptions, sd_model: str, *, refused: Mapping[str, str], device: str | None = None) -> None:
    """Writes the model with the adapters in it. refused: kinds of models that raise ValueError, and the way out to name."""
    sources = options.sources()
    model = open_model(sd_model)
    kind = kind_of_model(model.tensors, model.path)
    if kind in refused:
        raise ValueError(f"--sd_model {sd_model} is {kind}: {refused[kind]}")
    tensors = merged_model(
        model,
        [(source.file, product(source.ratio, source.block_weight)) for source in sources],
        work_dtype=options.work_dtype,
        save_dtype=options.save_dtype,
        device=checked_device(device),
    )
    metadata = {}
    if not options.no_metadata:
        v_parameterization = model.metadata.get("modelspec.prediction_type") == "v"
        origins = [model, *(source.file for source in sources)]
        metadata = model_spec(kind, options.save_to, origins, v_parameterization=v_parameterization)
    write_stream(options.save_to, tensors, metadata)
    logger.info("saved %s", options.save_to)


def merge_factors(options: MergeOptions, *, concat: bool, shuffle: bool) -> None:
    """Writes one adapter made from several by their factors."""
    sources = options.sources()
    given = (*(options.ratios or []), *(options.unet_ratios or []), *(options.te_ratios or []))
    strange = [ratio for ratio in given if ratio != 1]
    if strange and not options.exact:
        logger.warning(
            "ratios count squared here, as in sd-scripts (%g acts as %g): --exact makes them linear", strange[0], strange[0] ** 2
        )
    tensors, sizes = merged_by_factors(sources, exact=options.exact, concat=concat, shuffle=shuffle, work_dtype=options.work_dtype)
    if not tensors:
        raise ValueError("nothing is left: every module has strength 0")
    files = [source.file for source in sources]
    if options.exact:
        dims, alphas = [rank for rank, _ in sizes.values()], [alpha for _, alpha in sizes.values()]
    else:
        dims, alphas = _first_seen(files, AdapterFile.ranks), _first_seen(files, AdapterFile.alphas)
    dim, alpha = common_value(dims), common_value(alphas, lambda value: str(float(value)))
    _save(options, files, _cast(tensors, options.save_dtype), dim, alpha, network_args=None)


def merge_svd(options: MergeOptions, *, rank: int, conv_rank: int | None, device: str | None, sd_model: str | None) -> None:
    """Writes the LoRA of the given ranks that comes closest to the sum of the adapters, and tells how close."""
    sources = options.sources()
    conv_rank = rank if conv_rank is None else conv_rank
    if min(rank, conv_rank) < 1:
        raise ValueError(f"--new_rank {rank} and --new_conv_rank {conv_rank} must be 1 or more")
    tensors, error = merged_by_svd(
        sources,
        rank=rank,
        conv_rank=conv_rank,
        clamp=None if options.exact else CLAMP_QUANTILE,
        work_dtype=options.work_dtype,
        model=open_model(sd_model) if sd_model else None,
        device=checked_device(device),
    )
    logger.info("error: %.3f%% of the norm of the exact sum%s", 100 * error, "" if options.exact else " (--exact: without clamping)")
    lazy = {key: LazyTensor.of(tensor) for key, tensor in tensors.items()}
    args = {"conv_dim": conv_rank, "conv_alpha": conv_rank}
    _save(options, [source.file for source in sources], _cast(lazy, options.save_dtype), str(rank), str(rank), network_args=args)


def _save(options: MergeOptions, files: list[AdapterFile], tensors: dict[str, LazyTensor], dim: str, alpha: str, network_args) -> None:
    v2, base = first_known(files, "ss_v2"), first_known(files, "ss_base_model_version")
    metadata = network_metadata(dim, alpha, network_args=network_args, v2=v2, base=base)
    if not options.no_metadata:
        metadata |= adapter_spec(files, options.save_to)
    write_stream(options.save_to, tensors, metadata, hashed=True)
    logger.info("saved %s", options.save_to)


def _cast(tensors: dict[str, LazyTensor], dtype: torch.dtype) -> dict[str, LazyTensor]:
    return {key: tensor.to(dtype) for key, tensor in tensors.items()}


def _first_seen(files: Sequence[AdapterFile], values: Callable[[AdapterFile], dict[str, float]]) -> list[float]:
    """The value of each module in the first file that has it."""
    found: dict[str, float] = {}
    for file in files:
        found = values(file) | found
    return list(found.values())


def checked_device(device: str | None) -> torch.device:
    """Raises ValueError if there is no such device here."""
    try:
        return torch.empty(0, device=device or "cpu").device
    except (RuntimeError, AssertionError) as fault:
        raise ValueError(f"--device {device}: there is no such device here; leave it out to compute on the CPU") from fault


def precision(name: str | None) -> torch.dtype | None:
    return None if name is None else PRECISIONS[name]
