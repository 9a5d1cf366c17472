"""Going on from a saved state: what --resume names is looked at before anything is built, and put back once everything is.

States of this suite go on exactly where they stood, in the middle of an epoch too. Those of sd-scripts go on with their network, optimizer,
schedule and random states, at the step that they tell.
"""

import logging
import warnings
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from library.optim.optimizers import OTHER_FORMS
from library.saving import state
from library.saving.state_record import POSITION, SCHEDULER, random_states_file
from library.training.deciding_options import changed_options
from library.training.misfits import check_network, check_optimizer, check_recorded_optimizer, check_schedule
from library.training.newest_state import NEWEST
from library.training.optimization import Optimization
from library.training.plan import Plan
from library.training.positions import Position, after_steps, next_epoch_if_done, reference_start
from library.training.random_states import check_random_states, restore_random_states
from library.training.saved_run import SavedRun, check_fits, nothing_left, opened_run

logger = logging.getLogger(__name__)


def saved_run(args: Namespace, model: str) -> SavedRun | None:
    """What --resume names, None without it. model: what family the run trains.

    Raises ValueError for a folder that is no whole state, and for one whose record tells that it cannot fit.
    """
    saved = opened_run(args)
    check_fits(saved, args, model)
    check_recorded_optimizer(saved, args)
    return saved


def seed_of(saved: SavedRun | None, args: Namespace) -> int | None:
    """The seed to start with: the saved run's, as the order of the data and caches come from it, else --seed."""
    if saved is None or saved.record is None:
        return args.seed
    if args.seed is None:
        logger.info("--resume: seed %d, as in the saved run", saved.record.seed)
    elif args.seed != saved.record.seed:
        logger.warning("--seed %d is not used: --resume goes on with the seed %d of the saved run", args.seed, saved.record.seed)
    return saved.record.seed


def start_position(args: Namespace, saved: SavedRun | None, plan: Plan, processes: int) -> Position:
    """Where the run begins. Raises ValueError if nothing is left to train from there."""
    accumulation, batches = args.gradient_accumulation_steps, ceil(plan.batches_per_epoch / processes)
    steps, source = _steps_done(args, saved, plan, ceil(batches / processes / accumulation))
    if steps >= plan.total_steps and not (source == "--resume" and args.resume == NEWEST):
        raise ValueError(nothing_left(args, source, steps, plan.total_steps))
    if args.strict_compat:
        start = reference_start(steps, plan, batches=batches, accumulation=accumulation, skip=args.skip_until_initial_step)
    elif source == "--resume" and saved.record and _same_data(saved, plan, processes):
        record = saved.record
        start = Position(record.epoch, record.batches_done, record.global_step, record.epoch_ended)
    else:
        start = after_steps(steps, plan, accumulation)
    start = next_epoch_if_done(start, batches)
    if steps >= plan.total_steps and start.ended:
        start = replace(start, epoch=plan.num_epochs + 1)
    elif start.epoch > plan.num_epochs:
        raise ValueError(nothing_left(args, source, steps, plan.total_steps))
    if source:
        epoch = min(start.epoch, plan.num_epochs)
        logger.info("%s: going on in epoch %d of %d, %d steps done", source, epoch, plan.num_epochs, start.global_step)
    return start


def _steps_done(args: Namespace, saved: SavedRun | None, plan: Plan, steps_per_epoch_of_reference: int) -> tuple[int, str]:
    """(optimizer steps taken as done, the option that says so or "")."""
    name = "initial_step" if args.initial_step is not None else "initial_epoch" if args.initial_epoch is not None else None
    if name is None:
        if saved is None:
            return 0, ""
        if saved.steps_done is None:
            logger.warning("--resume: the state has no %s, so steps count from 0; say where it stood with --initial_step", POSITION)
        return saved.steps_done or 0, "--resume"
    if saved is not None:
        logger.warning("--%s %s is used, and not the step of --resume (%s)", name, getattr(args, name), saved.current_step)
    if name == "initial_step":
        return args.initial_step, "--initial_step"
    return (args.initial_epoch - 1) * (steps_per_epoch_of_reference if args.strict_compat else plan.updates_per_epoch), "--initial_epoch"


def _same_data(saved: SavedRun, plan: Plan, processes: int) -> bool:
    """Whether a place within the saved run's epoch means the same here; if not, says so."""
    record = saved.record
    there = (record.batches_per_epoch, record.updates_per_epoch, record.processes)
    if there == (plan.batches_per_epoch, plan.updates_per_epoch, processes):
        return True
    logger.warning(
        "--resume: an epoch had %d batches and %d steps, now it has %d and %d; the run goes on at the same step, not at the same image",
        record.batches_per_epoch, record.updates_per_epoch, plan.batches_per_epoch, plan.updates_per_epoch,
    )  # fmt: skip
    return False


def restore(
    saved: SavedRun | None,
    args: Namespace,
    start: Position,
    network: nn.Module,
    optimizing: Optimization,
    accelerator: Accelerator,
) -> None:
    """Fills a prepared run from the state, random generators last; without one it moves the schedule to where the run begins.

    Raises ValueError for a state of another shape, before anything is changed.
    """
    if saved is None:
        if not args.strict_compat:
            _advance(optimizing, start.global_step * accelerator.num_processes)
        return
    changed = changed_options(saved.record, args)
    try:
        content = state.read_state(saved.folder)
        random_states = state.read_random_states(saved.folder, accelerator.process_index)
        check_network(content.network, network.state_dict(), changed, saved.folder)
        check_optimizer(content.optimizer, optimizing.built, saved.folder, same_class=saved.record is not None)
        check_schedule(content.scheduler, optimizing.lr_scheduler)
        if random_states is not None:
            check_random_states(random_states)
    except ValueError as fault:
        raise ValueError(f"--resume {saved.folder}: {fault}") from fault
    if changed:
        logger.warning("--resume: options differ from those of the saved run: %s", "; ".join(changed))
    network.load_state_dict(dict(content.network))
    _restore_optimizer(content, network, optimizing)
    _restore_schedule(content.scheduler, optimizing, start.global_step * accelerator.num_processes)
    if accelerator.scaler is not None and content.scaler is not None:
        accelerator.scaler.load_state_dict(dict(content.scaler))
    if random_states is None:
        name = random_states_file(accelerator.process_index)
        logger.warning("--resume: the state has no %s: random numbers start anew from the seed", name)
    else:
        restore_random_states(random_states)


def _restore_optimizer(content: state.TrainingState, network: nn.Module, optimizing: Optimization) -> None:
    """Loads its state and settings. Rates are those of the state, as the schedule goes on from there; others given are named."""
    optimizer = optimizing.built.optimizer
    given = [group.get("initial_lr") for group in optimizer.param_groups]
    optimizer.load_state_dict(_in_form_of(optimizer, content.optimizer))
    kept = [group.get("initial_lr") for group in optimizer.param_groups]
    if kept != given:
        logger.warning("--resume: learning rates stay those of the state, %s; %s have no effect", kept, given)
    _keep_precision(optimizer, content, network)
    if optimizing.built.schedule_free:
        optimizer.train()
        optimizing.hooks.weights_changed()


def _in_form_of(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state with this optimizer's way of computing a step: fused or not is a matter of this run, not of the numbers."""
    own = [{key: group[key] for key in OTHER_FORMS & group.keys()} for group in optimizer.param_groups]
    return {**saved, "param_groups": [group | form for group, form in zip(saved["param_groups"], own, strict=True)]}


def _keep_precision(optimizer: torch.optim.Optimizer, content: state.TrainingState, network: nn.Module) -> None:
    """Undoes what torch does to states that are finer than their weights (fp32 averages of bf16 weights): it rounds them."""
    if {tensor.dtype for tensor in content.network.values()} != {tensor.dtype for tensor in network.state_dict().values()}:
        return
    saved = content.optimizer
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        held: dict[str, Any] = optimizer.state.get(parameter, {})
        for key, value in saved["state"].get(number, {}).items():
            if isinstance(value, Tensor) and isinstance(held.get(key), Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device)


def _restore_schedule(saved: Mapping[str, Any] | None, optimizing: Optimization, steps: int) -> None:
    """Loads the schedule's state; one that is not in the folder is moved on by `steps`."""
    if saved is not None and hasattr(optimizing.lr_scheduler, "load_state_dict"):
        optimizing.lr_scheduler.load_state_dict(dict(saved))
    elif hasattr(optimizing.lr_scheduler, "load_state_dict"):
        logger.warning("--resume: the state has no %s: the schedule goes on from step %d", SCHEDULER, steps)
        _advance(optimizing, steps)


def _advance(optimizing: Optimization, steps: int) -> None:
    """Moves a fresh schedule on, as if the optimizer had made the steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of schedule steps without optimizer steps
        for _ in range(steps):
            optimizing.lr_scheduler.step()
