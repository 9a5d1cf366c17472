"""Reads the namespace once: options become the named values the rest of the suite takes."""

import logging
import random
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from library.data.loader import BatchLoader
from library.diffusion.losses import LossSettings
from library.diffusion.noise import NoiseSettings
from library.kernels.bf16_on_cpu import fast_bf16_on_cpu
from library.models.family import Family, Models
from library.saving.hub import HubSettings, HubUpload
from library.training.accelerator import make_accelerator
from library.training.adapter import NetworkSettings, network_arguments
from library.training.datasets import RunData
from library.training.guard import weights_are_finite
from library.training.plan import Plan, plan_training
from library.training.precision import DTYPES
from library.training.recording import recordings
from library.training.run_metadata import RunMetadata
from library.training.saving_points import NotSaved, SavePoints, SaveSettings
from library.training.state_points import StatePoints, StateSettings
from library.training.step import StepParts, StepSettings
from library.training.tracker_settings import tracker_settings
from library.training.trackers import logged_config

logger = logging.getLogger(__name__)

SAVE_DTYPES = {None: None, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def accelerator(args: Namespace) -> Accelerator:
    """The accelerate object for the options of precision, processes and logging."""
    return make_accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        logging_dir=args.logging_dir,
        log_prefix=args.log_prefix,
        log_with=args.log_with,
        ddp_timeout=args.ddp_timeout,
        ddp_gradient_as_bucket_view=args.ddp_gradient_as_bucket_view,
        ddp_static_graph=args.ddp_static_graph,
    )


@contextmanager
def fast_arithmetic(args: Namespace) -> Iterator[None]:
    """In the body bf16 is not slow, on whatever processor."""
    wanted = args.mixed_precision == "bf16" and not torch.accelerator.is_available()
    with fast_bf16_on_cpu(wanted=wanted) as detour:
        if detour:
            logger.info("this processor has no bf16 arithmetic: products are computed in fp32 and rounded")
        yield


def network_settings(args: Namespace) -> NetworkSettings:
    """The --network_* options."""
    return NetworkSettings(
        module=args.network_module,
        dim=args.network_dim,
        alpha=args.network_alpha,
        dropout=args.network_dropout,
        arguments=network_arguments(args.network_args, args.network_dropout, args.dim_from_weights),
        weights=args.network_weights,
        dim_from_weights=args.dim_from_weights,
        base_weights=args.base_weights or (),
        base_weights_multiplier=args.base_weights_multiplier or (),
        train_unet=not args.network_train_text_encoder_only,
        train_text_encoder=not args.network_train_unet_only,
    )


def plan(args: Namespace, data: RunData, accelerator: Accelerator) -> Plan:
    """Steps and epochs of the run."""
    return plan_training(
        batches_per_epoch=len(data.train),
        processes=accelerator.num_processes,
        accumulation=args.gradient_accumulation_steps,
        max_train_steps=args.max_train_steps,
        max_train_epochs=args.max_train_epochs,
        save_every_n_epochs=args.save_every_n_epochs,
        save_n_epoch_ratio=args.save_n_epoch_ratio,
    )


def batch_loader(args: Namespace, data: RunData, accelerator: Accelerator) -> BatchLoader:
    """The loader of the training data for this process. Its workers stay, but with strict_compat only if asked: there it matters."""
    return BatchLoader(
        data.train,
        workers=args.max_data_loader_n_workers,
        persistent_workers=bool(args.persistent_data_loader_workers) or not args.strict_compat,
        shuffle=True,
        strict_compat=args.strict_compat,
        seed=data.dataset_seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        accumulation=args.gradient_accumulation_steps,
    )


def validation_loader(args: Namespace, data: RunData, accelerator: Accelerator, training: BatchLoader) -> BatchLoader | None:
    """The loader of the held-out images, always in the same order; None if there are none."""
    if data.validation is None:
        return None
    return BatchLoader(
        data.validation,
        workers=args.max_data_loader_n_workers,
        persistent_workers=bool(args.persistent_data_loader_workers),
        shuffle=False,
        strict_compat=args.strict_compat,
        seed=data.dataset_seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        counters=training.counters,
    )


def step_settings(args: Namespace) -> StepSettings:
    """What the step needs to know of the options."""
    noise = NoiseSettings(
        noise_offset=args.noise_offset,
        noise_offset_random_strength=args.noise_offset_random_strength,
        adaptive_noise_scale=args.adaptive_noise_scale,
        multires_noise_iterations=args.multires_noise_iterations,
        multires_noise_discount=args.multires_noise_discount,
        ip_noise_gamma=args.ip_noise_gamma,
        ip_noise_gamma_random_strength=args.ip_noise_gamma_random_strength,
        min_timestep=args.min_timestep,
        max_timestep=args.max_timestep,
    )
    losses = LossSettings(
        loss_type=args.loss_type,
        huber_schedule=args.huber_schedule,
        huber_c=args.huber_c,
        huber_scale=args.huber_scale,
        min_snr_gamma=args.min_snr_gamma,
        scale_v_pred_loss_like_noise_pred=args.scale_v_pred_loss_like_noise_pred,
        v_pred_like_loss=args.v_pred_like_loss,
        debiased_estimation_loss=args.debiased_estimation_loss,
        masked_loss=args.masked_loss,
    )
    return StepSettings(
        noise=noise,
        losses=losses,
        train_text_encoder=not args.network_train_unet_only,
        vae_batch_size=args.vae_batch_size,
        weight_dtype=DTYPES[args.mixed_precision],
        cast_text_states=args.full_fp16,
    )


def step_parts(args: Namespace, family: Family, models: Models, network: nn.Module, accelerator: Accelerator) -> StepParts:
    """The models and callables of the step."""
    return StepParts(
        family=family,
        models=models,
        network=network,
        objective=family.objective(args.zero_terminal_snr).to(accelerator.device),
        autocast=accelerator.autocast,
        python_random=random,
        **recordings(args, network, accelerator),
    )


def save_settings(args: Namespace, plan: Plan) -> SaveSettings:
    """Where and when the run saves."""
    return SaveSettings(
        output_dir=Path(args.output_dir),
        output_name=args.output_name,
        extension=f".{args.save_model_as}",
        save_every_n_epochs=plan.save_every_n_epochs,
        save_every_n_steps=args.save_every_n_steps,
        save_last_n_epochs=args.save_last_n_epochs,
        save_last_n_steps=args.save_last_n_steps,
    )


def save_points(
    args: Namespace, network: nn.Module, metadata: RunMetadata, plan: Plan, accelerator: Accelerator, hub: HubUpload | None
) -> SavePoints:
    """Where and when the network is saved, and with which metadata."""
    dtype = SAVE_DTYPES[args.save_precision]

    def write(path: Path, *, epoch: int, global_step: int) -> None:
        if not weights_are_finite(network):
            raise NotSaved(f"{path} is not written: the weights hold NaN or infinite values")
        path.parent.mkdir(parents=True, exist_ok=True)
        network.save_weights(str(path), dtype, metadata.at_save(epoch=epoch, global_step=global_step))

    return SavePoints(
        save_settings(args, plan),
        write,
        num_epochs=plan.num_epochs,
        enabled=accelerator.is_main_process,
        strict_compat=args.strict_compat,
        hub=hub,
        needed=sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in network.state_dict().values()),
    )


def state_points(
    args: Namespace, plan: Plan, write: Callable[..., None], accelerator: Accelerator, hub: HubUpload | None
) -> StatePoints:
    """When training states are saved; they follow the network's saves where they have no number of their own."""
    states = StateSettings(
        with_saves=args.save_state,
        at_end=args.save_state_on_train_end,
        last_n_epochs=args.save_last_n_epochs_state or args.save_last_n_epochs,
        last_n_steps=args.save_last_n_steps_state or args.save_last_n_steps,
    )
    upload = hub.folder if hub is not None and args.save_state_to_huggingface else None
    return StatePoints(
        save_settings(args, plan), states, write, num_epochs=plan.num_epochs, main=accelerator.is_main_process, upload=upload
    )


def hub_upload(args: Namespace, accelerator: Accelerator) -> HubUpload | None:
    """Where the main process sends saved files besides, None without --huggingface_repo_id; warns if there is no such repository."""
    if not args.huggingface_repo_id or not accelerator.is_main_process:
        return None
    upload = HubUpload(
        HubSettings(
            repo_id=args.huggingface_repo_id,
            repo_type=args.huggingface_repo_type or "model",
            folder=args.huggingface_path_in_repo or "",
            token=args.huggingface_token,
            private=args.huggingface_repo_visibility != "public",
            background=args.async_upload,
        )
    )
    upload.check()
    return upload


def tracker_arguments(args: Namespace) -> dict[str, Any]:
    """What `trackers.start_trackers` takes."""
    return {
        "name": args.log_tracker_name,
        "wandb_run_name": args.wandb_run_name,
        "wandb_api_key": args.wandb_api_key,
        "init_arguments": tracker_settings(args.log_tracker_config) if args.log_tracker_config else None,
        "config": logged_config(vars(args)) if args.log_config else None,
    }
