"""What the programs do that make one adapter from one file or from two models, from named options to a written file."""

import logging

import torch

from library.models.kinds import SD2, SDXL
from library.models.original_layout import open_model
from library.saving.streaming import LazyTensor, write_stream
from networks.files.adapter_file import AdapterFile, open_adapter
from networks.files.dylora_split import cut_names, cuts
from networks.files.extract import extracted
from networks.files.metadata import SDXL_VERSION, facts_of, network_metadata, spec
from networks.files.places import kind_of_model
from networks.files.resize import Resized, resized, whole_error
from networks.files.tasks import checked_device, precision

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


def required(option: str, value: str | None, what: str) -> str:
    """Raises ValueError if an option without which nothing can be done is missing."""
    if not value:
        raise ValueError(f"{option} is missing: name {what}")
    return value


def save(path: str, tensors: Tensors, metadata: dict[str, str]) -> None:
    write_stream(path, {key: LazyTensor.of(tensor) for key, tensor in tensors.items()}, metadata, hashed=True)
    logger.info("saved %s", path)


# --- resize -------------------------------------------------------------------------------------------------------------


def resize_file(
    model: str | None, save_to: str | None, *, rank: int, conv_rank: int | None, method: str | None, param: float | None,
    save_precision: str | None, device: str | None, verbose: bool,
) -> None:  # fmt: skip
    """Raises ValueError for missing or impossible options, and for files without any module that has a rank."""
    file = open_adapter(required("--model", model, "the adapter file to resize"))
    save_to = required("--save_to", save_to, "the file to write")
    conv_rank = rank if conv_rank is None else conv_rank
    _check_resize(rank, conv_rank, method, param)
    dtype = precision(save_precision)
    tensors, report = resized(
        file, rank=rank, conv_rank=conv_rank, method=method, param=param, save_dtype=dtype, device=checked_device(device)
    )
    if verbose:
        for one in report:
            logger.info("%s: rank %d -> %d, %.2f%% of the norm kept", one.module, one.old_rank, one.rank, 100 * one.share)
    _tell(report, rank, method)
    save(save_to, tensors, _resize_metadata(file, report, rank, conv_rank, method, param))


def _check_resize(rank: int, conv_rank: int, method: str | None, param: float | None) -> None:
    if min(rank, conv_rank) < 1:
        raise ValueError(f"--new_rank {rank} and --new_conv_rank {conv_rank} must be 1 or more")
    if method is None:
        return
    if param is None:
        raise ValueError(f"--dynamic_method {method} needs --dynamic_param")
    if method == "sv_ratio" and param < 2:
        raise ValueError(f"--dynamic_param {param:g}: sv_ratio keeps values above the largest / P, so P must be 2 or more")
    if method != "sv_ratio" and not 0 < param <= 1:
        raise ValueError(f"--dynamic_param {param:g}: {method} keeps a share, so give a number above 0 and up to 1")


def _tell(report: list[Resized], rank: int, method: str | None) -> None:
    changed = {one.kind for one in report if one.kind not in ("LoRA", "DoRA")}
    if changed:
        logger.info("%s modules are written as LoRA; error: %.3f%% of their norm", ", ".join(sorted(changed)), 100 * whole_error(report))
    worst = min(report, key=lambda one: one.share)
    mean_rank = sum(one.rank for one in report) / len(report)
    mean_share = sum(one.share for one in report) / len(report)
    logger.info("%d modules, mean rank %.1f, %.2f%% of the norm kept on average", len(report), mean_rank, 100 * mean_share)
    logger.info("least in %s: %.2f%%", worst.module, 100 * worst.share)
    small = [one for one in report if one.old_rank < rank]
    if method is None and small:
        logger.warning("%d modules have a rank below --new_rank %d already: a rank cannot grow, they keep theirs", len(small), rank)


def _resize_metadata(
    file: AdapterFile, report: list[Resized], rank: int, conv_rank: int, method: str | None, param: float | None
) -> dict[str, str]:
    old = max(one.old_rank for one in report)
    comment = file.metadata.get("ss_training_comment", "")
    found = dict(file.metadata)
    if {one.kind for one in report} & {"LoHa", "LoKr", "full"}:
        found |= {"ss_network_module": "networks.lora"}
        found.pop("ss_network_args", None)
    if method is None:
        conv = f" (conv: {conv_rank})" if conv_rank != rank else ""
        told = f"dimension is resized from {old} to {rank}{conv}; {comment}"
        return found | {"ss_training_comment": told, "ss_network_dim": str(rank), "ss_network_alpha": str(report[-1].alpha)}
    told = f"Dynamic resize with {method}: {param} from {old}; {comment}"
    return found | {"ss_training_comment": told, "ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}


# --- extract ------------------------------------------------------------------------------------------------------------


def extract_file(
    model_org: str, model_tuned: str, save_to: str, *, dim: int, conv_dim: int | None, clamp_quantile: float, min_diff: float,
    load_precision: str | None, save_precision: str | None, device: str | None, v_parameterization: bool, wants_v2: bool,
    wants_sdxl: bool, no_metadata: bool,
) -> None:  # fmt: skip
    """Raises ValueError if the models are of two kinds, or not of the kind that the options say."""
    original, tuned = open_model(model_org), open_model(model_tuned)
    kind = kind_of_model(original.tensors, original.path)
    for option, wanted, own_kind in (("--sdxl", wants_sdxl, SDXL), ("--v2", wants_v2, SD2)):
        if wanted and kind != own_kind:
            raise ValueError(f"--model_org {model_org} is {kind}: leave out {option}")
    if not 0 < clamp_quantile <= 1:
        raise ValueError(f"--clamp_quantile must be above 0 and up to 1, got {clamp_quantile:g}")
    tensors, error = extracted(
        original, tuned, dim=dim, conv_dim=conv_dim, clamp_quantile=clamp_quantile, min_diff=min_diff,
        load_dtype=precision(load_precision), device=checked_device(device),
    )  # fmt: skip
    logger.info("error: %.3f%% of the norm of the difference (--clamp_quantile %g)", 100 * error, clamp_quantile)
    v2 = kind == SD2
    version = SDXL_VERSION if kind == SDXL else ("sd_v2" if v2 else "sd_v1") + ("_v" if v_parameterization else "")
    args = {} if conv_dim is None else {"conv_dim": str(conv_dim), "conv_alpha": str(float(conv_dim))}
    metadata = network_metadata(str(dim), str(float(dim)), network_args=args, v2=str(v2), base=version)
    if not no_metadata:
        metadata |= spec(facts_of(kind, v_parameterization), save_to, None)
    dtype = precision(save_precision or "float")
    save(save_to, {key: tensor.to(dtype) for key, tensor in tensors.items()}, metadata)


# --- DyLoRA -------------------------------------------------------------------------------------------------------------


def split_file(model: str | None, save_to: str | None, unit: int) -> None:
    """Writes one file per rank below the DyLoRA's own."""
    file = open_adapter(required("--model", model, "the DyLoRA"))
    save_to = required("--save_to", save_to, "the file to write")
    for rank, tensors, metadata in cuts(file, unit):
        save(cut_names(save_to, rank), tensors, metadata)
