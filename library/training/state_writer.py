"""Gathers the training state of a run and writes it as one folder, whole or not at all."""

import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn

from library.files import abandon_folder, begin_folder, finish_folder, room_left, unfinished_folder
from library.models.family import Family
from library.saving.state import TrainingState, write_random_states, write_state
from library.saving.state_record import RunRecord
from library.training.datasets import RunData
from library.training.guard import weights_are_finite
from library.training.loss_average import LossAverage
from library.training.optimization import Optimization
from library.training.plan import Plan
from library.training.positions import Position
from library.training.random_states import random_states
from library.training.run_memory import RunMemory
from library.training.saving_points import NotSaved

DECIDING = (
    "strict_compat", "train_batch_size", "gradient_accumulation_steps", "resolution", "network_module", "network_dim", "network_alpha",
    "network_dropout", "network_args", "network_train_unet_only", "network_train_text_encoder_only", "scale_weight_norms",
    "optimizer_args", "lr_scheduler", "lr_scheduler_type", "lr_scheduler_args", "lr_warmup_steps", "lr_decay_steps",
    "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_min_lr_ratio", "max_grad_norm", "mixed_precision", "full_fp16",
    "full_bf16", "clip_skip", "max_token_length", "weighted_captions", "v_parameterization", "zero_terminal_snr", "noise_offset",
    "noise_offset_random_strength", "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma",
    "ip_noise_gamma_random_strength", "min_timestep", "max_timestep", "loss_type", "huber_schedule", "huber_c", "huber_scale",
    "min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "masked_loss", "alpha_mask",
    "prior_loss_weight", "cache_latents", "enable_bucket", "bucket_no_upscale", "bucket_reso_steps", "min_bucket_reso",
    "max_bucket_reso", "random_crop", "flip_aug", "color_aug", "face_crop_aug_range", "shuffle_caption", "keep_tokens",
    "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step",
)  # fmt: skip
"""Options that change what a run learns from here on: a resumed run that has others is told so."""


def deciding_options(args: Namespace) -> dict[str, Any]:
    """Their values as they come back from a JSON file."""
    return json.loads(json.dumps({name: getattr(args, name, None) for name in DECIDING}, default=str))


def state_writer(
    args: Namespace,
    seed: int,
    family: Family,
    data: RunData,
    plan: Plan,
    network: nn.Module,
    optimizing: Optimization,
    accelerator: Accelerator,
    memory: RunMemory,
) -> Callable[[Path, Position, LossAverage], None]:
    """The function that writes a state; to be called in all processes, which all get NotSaved if one of them cannot write.

    With strict_compat nothing is written that sd-scripts does not.
    """

    def record(position: Position, losses: LossAverage, remembered: dict[str, dict[str, Any]]) -> RunRecord:
        return RunRecord(
            seed=seed,
            dataset_seed=data.dataset_seed,
            epoch=position.epoch,
            batches_done=position.batches_done,
            global_step=position.global_step,
            batches_per_epoch=plan.batches_per_epoch,
            updates_per_epoch=plan.updates_per_epoch,
            processes=accelerator.num_processes,
            model=family.base_model_version,
            optimizer=optimizing.built.class_name,
            losses=losses.state(),
            options=deciding_options(args),
            memory=remembered,
            epoch_ended=position.ended,
            saved_at=time.time(),
        )

    def fill(folder: Path, position: Position, losses: LossAverage, remembered: dict[str, dict[str, Any]]) -> None:
        write_random_states(folder, accelerator.process_index, random_states())
        if accelerator.is_main_process:
            whole = gathered(network, optimizing, accelerator)
            ours = None if args.strict_compat else record(position, losses, remembered)
            write_state(folder, whole, epoch=position.epoch, global_step=position.global_step, record=ours)

    def write(folder: Path, position: Position, losses: LossAverage) -> None:
        remembered = memory.state()  # first of all, as the guard may yet take weights back
        if not weights_are_finite(network):
            raise NotSaved(f"{folder} is not written: the weights hold NaN or infinite values")
        main = accelerator.is_main_process
        _together(folder, main, lambda: begin_folder(folder) if main else None)
        _together(folder, main, lambda: fill(unfinished_folder(folder), position, losses, remembered))
        _together(folder, main, lambda: finish_folder(folder) if main else None)

    return write


def _together(folder: Path, main: bool, action: Callable[[], object]) -> None:
    """Runs `action` in each process and waits for all. If one cannot write, all raise NotSaved and nothing of the folder stays."""
    fault = None
    try:
        action()
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError is torch.save's on a full disk
        fault = str(error)
    faults = [told for told in gather_object([fault]) if told]
    if faults:
        if main:
            abandon_folder(folder)
        raise NotSaved(f"{folder} could not be written: {faults[0]}; {room_left(folder.parent)}")


def gathered(network: nn.Module, optimizing: Optimization, accelerator: Accelerator) -> TrainingState:
    """What the objects of a run hold at this moment."""
    has_state = hasattr(optimizing.lr_scheduler, "state_dict")
    return TrainingState(
        network=network.state_dict(),
        optimizer=optimizing.built.optimizer.state_dict(),
        scheduler=optimizing.lr_scheduler.state_dict() if has_state else None,
        scaler=accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
    )
