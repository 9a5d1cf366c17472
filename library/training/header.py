"""What a run is about to do, in a dozen lines on the console when it starts. Text only; nothing here decides anything."""

import logging
from argparse import Namespace
from pathlib import Path

from accelerate import Accelerator

from library.models.family import Family
from library.training.adapter import NetworkSettings
from library.training.datasets import RunData
from library.training.optimization import Optimization
from library.training.plan import Plan
from library.training.schedules import schedule_line

logger = logging.getLogger(__name__)

PRECISIONS = {"no": "32 bit", "fp16": "fp16", "bf16": "bf16"}


def announce(
    args: Namespace,
    family: Family,
    data: RunData,
    plan: Plan,
    network: NetworkSettings,
    optimizing: Optimization,
    accelerator: Accelerator,
) -> None:
    """Puts the header on the console, once for all processes."""
    if accelerator.is_main_process:
        line = schedule_line(args, optimizing.built, plan.total_steps, accelerator.num_processes)
        logger.info("training\n%s", run_header(args, family, data, plan, network, optimizing, line, accelerator))


def run_header(
    args: Namespace,
    family: Family,
    data: RunData,
    plan: Plan,
    network: NetworkSettings,
    optimizing: Optimization,
    schedule: str,
    accelerator: Accelerator,
) -> str:
    """One block of text. schedule: the schedule's line, see library.training.schedules."""
    lines = {
        "model": f"{args.pretrained_model_name_or_path} ({family.base_model_version}, {family.prediction_type})",
        "images": images(data),
        "length": length(plan, accelerator.num_processes, args.gradient_accumulation_steps),
        "batch": global_batch(data, accelerator.num_processes, args.gradient_accumulation_steps),
        "device": f"{accelerator.device}, {precision(args)}",
        "network": network_line(network, optimizing),
        "optimizer": optimizing.built.name,
        "rates": rates(optimizing),
        "schedule": schedule,
        "saves to": saves(args, plan),
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in lines.items() if text)


def images(data: RunData) -> str:
    """How many images there are, and how many are seen in an epoch."""
    train = data.train
    text = f"{train.num_train_images:,} an epoch, repeats included"
    if train.num_reg_images:
        text += ", beside regularisation images"
    if data.validation:
        text += f"; {data.validation.num_train_images} more for validation"
    return text


def length(plan: Plan, processes: int, accumulation: int) -> str:
    """Steps and epochs: `1,000 steps in 5 epochs of 200 (200 batches each)`."""
    batches = f"{plan.batches_per_epoch:,} batches"
    if processes > 1:
        batches += f" shared by {processes} processes"
    if accumulation > 1:
        batches += f", {accumulation} to a step"
    epochs = "1 epoch" if plan.num_epochs == 1 else f"{plan.num_epochs:,} epochs"
    steps = "1 step" if plan.total_steps == 1 else f"{plan.total_steps:,} steps"
    return f"{steps} in {epochs} of {plan.updates_per_epoch:,} ({batches} an epoch)"


def global_batch(data: RunData, processes: int, accumulation: int) -> str:
    """Images that one step learns from: batch size times processes times accumulation."""
    sizes = sorted({dataset.settings.batch_size for dataset in data.train.datasets})
    shown = " or ".join(str(size) for size in sizes)
    total = " or ".join(str(size * processes * accumulation) for size in sizes)
    if processes == accumulation == 1:
        return f"{total} images a step"
    return f"{total} images a step: {shown} at once x {processes} processes x {accumulation} accumulated"


def precision(args: Namespace) -> str:
    """Formats of arithmetic, of trained and of frozen weights, where they differ from the plain ones."""
    text = f"arithmetic in {PRECISIONS[args.mixed_precision]}"
    if args.full_fp16 or args.full_bf16:
        text += f", trained weights in {PRECISIONS[args.mixed_precision]} too"
    if args.fp8_base or args.fp8_base_unet:
        text += ", frozen weights in 8 bit"
    return text


def network_line(network: NetworkSettings, optimizing: Optimization) -> str:
    """Module, rank, alpha, and how many numbers are trained."""
    rank = "from the file" if network.dim_from_weights else network.dim or "by default"
    groups = optimizing.built.optimizer.param_groups
    count = sum(parameter.numel() for group in groups for parameter in group["params"])
    text = f"{network.module}, rank {rank}, alpha {network.alpha:g}: {count:,} trained parameters"
    return f"{text}, going on from {network.weights}" if network.weights else text


def rates(optimizing: Optimization) -> str:
    """Full learning rate of each group, `unet 0.0001, textencoder 5e-05`; "" where the optimizer finds its own."""
    if optimizing.built.learning_rate is None:
        return ""
    groups = optimizing.built.optimizer.param_groups
    names = optimizing.rate_names.descriptions or [f"group {number}" for number in range(len(groups))]
    text = ", ".join(f"{name} {group.get('initial_lr', group['lr']):g}" for name, group in zip(names, groups, strict=False))
    return f"{text}, times what {optimizing.built.class_name.rpartition('.')[2]} finds" if optimizing.built.adapts_rate else text


def saves(args: Namespace, plan: Plan) -> str:
    """Where the network goes, and when besides the end."""
    times = [
        f"every {plan.save_every_n_epochs} epochs" if plan.save_every_n_epochs else "",
        f"every {args.save_every_n_steps} steps" if args.save_every_n_steps else "",
        "at the end",
    ]
    path = Path(args.output_dir) / f"{args.output_name or 'last'}.{args.save_model_as}"
    return f"{path} ({', '.join(time for time in times if time)})"
