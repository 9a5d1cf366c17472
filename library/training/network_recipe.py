"""The recipe for training an adapter network: `prepare` builds everything, `train` is the loop.

Between the two a caller may set weights or random states, or append watchers that see every step.
"""

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from library.data.batch import Batch
from library.data.group import DatasetGroup
from library.data.held_caches import hold_caches
from library.data.loader import BatchLoader
from library.models.family import Family, Models
from library.training import adapter, base_models, optimization, previews, resuming, schedules, settings, text_caching, trackers
from library.training.datasets import RunData, build_datasets
from library.training.header import announce
from library.training.memory_shortage import memory_shortage_explained
from library.training.optimization import Optimization, Update
from library.training.plan import Plan
from library.training.positions import Position
from library.training.preview_prompts import PreviewPrompt
from library.training.run_memory import RunMemory
from library.training.run_metadata import ModelHashes, Session, run_metadata
from library.training.saved_run import SavedRun
from library.training.saving_points import SavePoints
from library.training.sharding import Sharding, asked_sharding
from library.training.show_dataset import show_dataset
from library.training.state_points import StatePoints
from library.training.state_writer import state_writer
from library.training.step import MicroStep, StepParts, StepSettings, training_loss
from library.training.stopping import Stopped, StopRequest
from library.training.validation import Validation, build_validation

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything a training run works with, as `prepare` leaves it. Watchers are called with each MicroStep and Update.

    start, memory: where it begins, and what its parts remember from before.
    """

    family: Family
    data: RunData
    models: Models
    network: nn.Module
    optimization: Optimization
    loader: BatchLoader
    plan: Plan
    parts: StepParts
    step_settings: StepSettings
    previews: previews.Previews
    states: StatePoints
    start: Position
    memory: RunMemory
    accelerator: Accelerator
    open_trackers: Callable[[], None]
    accumulation: int
    scale_weight_norms: float | None
    strict_compat: bool
    watchers: list[Callable[[MicroStep], None]] = field(default_factory=list)
    update_watchers: list[Callable[[Update], None]] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def saves(self) -> SavePoints:
        return self.memory.saves

    @property
    def validation(self) -> Validation:
        return self.memory.validation

    @property
    def total_steps(self) -> int:
        return self.plan.total_steps

    @property
    def train_data(self) -> DatasetGroup:
        return self.data.train

    @property
    def optimizer(self):
        return self.optimization.optimizer

    @property
    def lr_scheduler(self):
        return self.optimization.lr_scheduler

    def batches(self, epoch: int, global_step: int) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch with their places in it, from 0; of the first one only those that are not done yet."""
        if global_step >= self.total_steps:
            return iter(())
        done = self.start.batches_done if epoch == self.start.epoch else 0
        first_step = global_step if self.strict_compat else global_step - done // self.accumulation
        return enumerate(self.loader.epoch(epoch, first_step=first_step, skip=done), done)


@dataclass(frozen=True)
class Task:
    """What is known of a run before a model is loaded. saved: the training state that it goes on from, if any."""

    prompts: list[PreviewPrompt]
    tracking: dict[str, Any]
    saved: SavedRun | None
    session: Session
    accelerator: Accelerator
    sharding: Sharding | None
    data: RunData
    plan: Plan
    start: Position
    hashes: ModelHashes


def understand(args: Namespace, family: Family) -> Task:
    """Reads what the options name, all but the models. Raises ValueError for what the user can mend."""
    prompts, tracking = previews.read_prompts(args, family), settings.tracker_arguments(args)
    saved = resuming.saved_run(args, family.base_model_version)
    seed = resuming.seed_of(saved, args)
    session = Session.begin(seed)
    sharding, accelerator = asked_sharding(args), settings.accelerator(args)
    session = session.shared(accelerator, seed)
    data = build_datasets(args, family, session.seed, saved and saved.dataset_seed)
    plan = settings.plan(args, data, accelerator)
    schedules.check_settings(args, plan.total_steps, accelerator.num_processes)
    start = resuming.start_position(args, saved, plan, accelerator.num_processes)
    hashes = ModelHashes(args.pretrained_model_name_or_path, args.vae)
    return Task(prompts, tracking, saved, session, accelerator, sharding, data, plan, start, hashes)


def prepare(args: Namespace, family: Family) -> Run:
    """Builds data sets, models, caches, network, optimizer and schedule, in the order that keeps random numbers in step.

    Raises ValueError for what the user can mend; everything about the data is checked before a model is loaded.
    """
    task = understand(args, family)
    saved, session, accelerator, data, plan, start = task.saved, task.session, task.accelerator, task.data, task.plan, task.start
    models = base_models.load_models(args, family, accelerator)
    base_models.cache_latents(data, args, family, models, accelerator)

    network_settings = settings.network_settings(args)
    network = adapter.build(network_settings, family, models, args, accelerator)
    text_cached = text_caching.cache_text(data, args, family, models, accelerator)
    base_models.place_models(args, family, models, accelerator, network_settings, task.sharding, text_cached=text_cached)
    built, groups = optimization.build(args, network)
    hold_caches(data.groups, accelerator.device)
    loader = settings.batch_loader(args, data, accelerator)
    data.train.set_max_train_steps(plan.total_steps)
    hooks = adapter.Hooks(network, family.text_encoder_for_network(models), models.unet)
    optimizing = optimization.assemble(args, network, hooks, built, groups, plan, accelerator)
    scale_weight_norms = adapter.supported_scale_weight_norms(network, args.scale_weight_norms)
    metadata = run_metadata(args, session, task.hashes, family, data, plan, built, network_settings, scale_weight_norms, accelerator)
    parts, step_settings = settings.step_parts(args, family, models, network, accelerator), settings.step_settings(args)
    held_out = settings.validation_loader(args, data, accelerator, loader)
    hub = settings.hub_upload(args, accelerator)
    saves = settings.save_points(args, network, metadata, plan, accelerator, hub)
    validation = build_validation(args, held_out, parts, step_settings, session.seed, accelerator)
    memory = RunMemory(optimizing.guard, optimizing.settled_rate, validation, saves)
    write_state = state_writer(args, session.seed, family, data, plan, network, optimizing, accelerator, memory)
    announce(args, family, data, plan, network_settings, optimizing, accelerator)
    session.separate(accelerator, args.strict_compat)
    resuming.restore(saved, args, start, network, optimizing, accelerator)
    memory.restore(saved and saved.record)
    return Run(
        family=family,
        data=data,
        models=models,
        network=network,
        optimization=optimizing,
        loader=loader,
        plan=plan,
        parts=parts,
        step_settings=step_settings,
        previews=previews.build_previews(args, task.prompts, family, models, network, accelerator),
        states=settings.state_points(args, plan, write_state, accelerator, hub),
        start=start,
        memory=memory,
        accelerator=accelerator,
        open_trackers=lambda: trackers.start_trackers(accelerator, **task.tracking),
        accumulation=args.gradient_accumulation_steps,
        scale_weight_norms=scale_weight_norms,
        strict_compat=args.strict_compat,
    )


def train(run: Run) -> None:
    """Runs all epochs and saves the finished network."""
    run.open_trackers()
    run.saves.at_start()
    global_step = run.start.global_step
    reporter = trackers.Reporter(run.accelerator, run.plan.total_steps, global_step, run.memory.losses, run.memory.spikes)
    with run.optimization.evaluating():
        run.previews.at_start(global_step)
    here = run.start
    for epoch in range(run.start.epoch, run.plan.num_epochs + 1):
        reporter.start_epoch(epoch, run.plan.num_epochs)
        run.optimization.hooks.epoch_start()
        for place, batch in run.batches(epoch, global_step):
            run.loader.note_step(global_step)
            run.optimization.hooks.step_start()
            loss, step = training_loss(batch.to(run.accelerator.device, non_blocking=True), run.parts, run.step_settings)
            run.optimization.backward(loss)
            del loss  # and with it all of autograd's nodes, which would tie the next step to this one's stream
            step = replace(step, epoch=epoch, global_step=global_step)
            run.optimization.guard.note(step)
            call(run.watchers, step)

            updating = (place + 1) % run.accumulation == 0 or place + 1 == len(run.loader)
            if updating:
                global_step += 1
                call(run.update_watchers, run.optimization.update(global_step))
            norms = limit_norms(run, updating)
            reporter.note(step, place=place, global_step=global_step, rates=run.optimization.logged_rates(), norms=norms)
            if updating:
                reporter.bar.update()
                look_and_save(run, reporter, epoch, global_step)
                here = Position(epoch, place + 1, global_step, ended=False)
                run.states.after_step(here, reporter.settled_losses)
                if run.stop:
                    leave(run, reporter, here)
            if global_step >= run.plan.total_steps:
                break
        with run.optimization.evaluating():
            run.validation.after_epoch(reporter, epoch=epoch, global_step=global_step)
            reporter.end_epoch(epoch, global_step)
            run.saves.after_epoch(epoch, global_step)
            run.previews.after_epoch(epoch, global_step)
        here = replace(here, ended=True)
        run.states.after_epoch(here, reporter.settled_losses)
    if here is not run.start:
        run.states.at_end(here, reporter.settled_losses)
    reporter.close()
    run.optimization.guard.finish()
    trackers.end_trackers(run.accelerator)
    with run.optimization.evaluating():
        run.saves.at_end(global_step)
    run.validation.tell_best(run.saves.saved)


def look_and_save(run: Run, reporter: trackers.Reporter, epoch: int, global_step: int) -> None:
    """What follows an update where it is due: to show other weights than the trained ones costs a pass over all of them."""
    if run.previews.due(global_step) or run.saves.due(global_step) or run.validation.due(global_step):
        with run.optimization.evaluating():
            run.previews.after_step(global_step, epoch)
            run.saves.after_step(global_step, epoch)
            run.validation.after_step(reporter, epoch=epoch, global_step=global_step)


def leave(run: Run, reporter: trackers.Reporter, here: Position) -> None:
    """Ends a run that was asked to stop: the state is saved already, the network is saved now, both with the step in their names."""
    reporter.close()
    with run.optimization.evaluating():
        run.saves.at_stop(here.global_step, here.epoch)
    trackers.end_trackers(run.accelerator)
    if run.accelerator.is_main_process:
        logger.warning("stopped after step %d of %d; go on with --resume %s", here.global_step, run.plan.total_steps, run.states.newest)
    raise Stopped(run.stop)


def limit_norms(run: Run, updating: bool) -> Sequence[float | Tensor] | None:
    """Applies --scale_weight_norms after updates, with strict_compat after every micro step; (scaled, mean, largest)."""
    if run.scale_weight_norms is None or not (updating or run.strict_compat):
        return None
    return run.network.apply_max_norm_regularization(run.scale_weight_norms, run.accelerator.device)


def call(watchers: list[Callable], value: object) -> None:
    """Hands `value` to each watcher."""
    for watcher in watchers:
        watcher(value)


def train_network(args: Namespace, family: Family) -> None:
    """What the entry scripts call."""
    if args.debug_dataset:
        show_dataset(args, family)
        return
    if args.lr_scheduler_preview:
        preview_schedule(args, family)
        return
    with memory_shortage_explained(args), settings.fast_arithmetic(args), trackers.bars_closed():
        run = prepare(args, family)
        if run.accelerator.num_processes > 1:  # signals reach processes at different steps
            train(run)
            return
        with run.stop.listening(on_request=run.states.ask):
            train(run)


def preview_schedule(args: Namespace, family: Family) -> None:
    """Draws the learning rate over the steps that these options and data make; no model is loaded."""
    accelerator = settings.accelerator(args)
    plan = settings.plan(args, build_datasets(args, family, args.seed or 0), accelerator)
    schedules.preview(args, plan.total_steps, accelerator.num_processes)
