"""The accelerate object of a run: device, precision, processes, trackers."""

import datetime
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import PartialState
from torch import Tensor, nn

from library.training.allocator import keep_freed_memory
from library.training.precision import check_precision
from library.training.sharding import keep_from_accelerate

logger = logging.getLogger(__name__)

PATIENCE = 180  # minutes that a process waits for the others, which may have more images to cache


def make_accelerator(
    *,
    mixed_precision: str,
    gradient_accumulation_steps: int,
    logging_dir: str | None = None,
    log_prefix: str | None = None,
    log_with: str | None = None,
    ddp_timeout: int | None = None,
    ddp_gradient_as_bucket_view: bool = False,
    ddp_static_graph: bool = False,
) -> Accelerator:
    """An Accelerator whose precision and accumulation are those of the command line, whatever accelerate's own config says.

    ddp_timeout: minutes. Raises ValueError when the precision cannot run on this machine.
    """
    check_precision(mixed_precision)
    keep_from_accelerate()
    handlers = []
    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        timeout = datetime.timedelta(minutes=ddp_timeout or PATIENCE)
        backend = "gloo" if os.name == "nt" or not torch.cuda.is_available() else "nccl"
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=timeout))
    if ddp_gradient_as_bucket_view or ddp_static_graph:
        handlers.append(
            DistributedDataParallelKwargs(gradient_as_bucket_view=ddp_gradient_as_bucket_view, static_graph=ddp_static_graph)
        )
    accelerator = Accelerator(
        gradient_accumulation_steps=gradient_accumulation_steps,
        mixed_precision=mixed_precision,
        log_with=trackers_for(log_with, logging_dir),
        project_dir=run_log_dir(logging_dir, log_prefix),
        kwargs_handlers=handlers,
        dynamo_backend="no",
    )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    elif accelerator.device.type == "cuda" and accelerator.device.index is not None:
        torch.cuda.set_device(accelerator.device)  # where Triton runs kernels; with ACCELERATE_TORCH_DEVICE accelerate leaves it to us
    logger.info("device: %s, precision: %s, processes: %d", accelerator.device, mixed_precision, accelerator.num_processes)
    return accelerator


def trackers_for(log_with: str | None, logging_dir: str | None) -> str | None:
    """The name accelerate wants: --logging_dir alone means TensorBoard, neither means no tracker."""
    if log_with is None:
        return "tensorboard" if logging_dir else None
    return log_with


def run_log_dir(logging_dir: str | None, log_prefix: str | None) -> str | None:
    """`<logging_dir>/<log_prefix><local time as YYYYmmddHHMMSS>`, None without a logging_dir."""
    if logging_dir is None:
        return None
    return f"{logging_dir}/{log_prefix or ''}{time.strftime('%Y%m%d%H%M%S', time.localtime())}"


def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over all processes, with one collective for all of them.

    parameters: the same ones in all processes. One that has a gradient in some processes only (module dropout) counts as zero in the
    others, and one that has none anywhere keeps none; to tell the two apart, a process reads from its device if it misses any.
    """
    if accelerator.num_processes == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    missing = [parameter.grad is None for parameter in trained]
    for parameter in (parameter for parameter in trained if parameter.grad is None):
        parameter.grad = torch.zeros_like(parameter)
    found = torch.tensor(missing).logical_not().float().to(accelerator.device, non_blocking=True)
    flat = torch.cat([*(parameter.grad.flatten().float() for parameter in trained), found])
    *means, found = accelerator.reduce(flat, reduction="mean").split([*(parameter.numel() for parameter in trained), len(trained)])
    torch._foreach_copy_([parameter.grad for parameter in trained], [mean.view_as(p) for mean, p in zip(means, trained, strict=True)])
    if any(missing):
        for parameter, anywhere in zip(trained, found.tolist(), strict=True):
            parameter.grad = parameter.grad if anywhere else None


def true_anywhere(accelerator: Accelerator, flags: Tensor) -> Tensor:
    """Where `flags`, bools of one shape in all processes, are true in any of them; the host reads nothing."""
    if accelerator.num_processes == 1:
        return flags
    return accelerator.reduce(flags.float(), reduction="sum") > 0


def allow_half_precision_gradients(accelerator: Accelerator) -> None:
    """Lets the gradient scaler unscale fp16 gradients, as --full_fp16 trains fp16 weights (training in fp16 throughout)."""
    scaler = accelerator.scaler
    if scaler is None:
        return
    unscale = scaler._unscale_grads_

    def unscale_any_dtype(optimizer, inv_scale, found_inf, allow_fp16):
        return unscale(optimizer, inv_scale, found_inf, True)

    scaler._unscale_grads_ = unscale_any_dtype


def one_process_after_another(accelerator: Accelerator, work):
    """Runs `work()` in each process of the machine in turn, so that big files are not read by all at once."""
    result = None
    for process in range(PartialState().num_processes):
        if process == accelerator.process_index:
            result = work()
        accelerator.wait_for_everyone()
    return result


def script_folder() -> Path:
    """The folder that holds the entry scripts, `library` and `networks`."""
    return Path(__file__).resolve().parents[2]
