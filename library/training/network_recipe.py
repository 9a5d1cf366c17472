"""The recipe for training an adapter network: `prepare` builds everything, `train` is the loop.

Between the two a caller may set weights or random states, or append watchers that see every step.
"""

import logging
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from accelerate import Accelerator
from torch import nn

from library.data.group import DatasetGroup
from library.data.loader import BatchLoader
from library.models.family import Family, Models
from library.training import adapter, base_models, optimization, previews, settings, trackers
from library.training.datasets import RunData, build_datasets
from library.training.memory_shortage import memory_shortage_explained
from library.training.optimization import Optimization, Update
from library.training.plan import Plan
from library.training.run_metadata import ModelHashes, Session, run_metadata
from library.training.saving_points import SavePoints
from library.training.step import MicroStep, StepParts, StepSettings, training_loss
from library.training.validation import Validation, build_validation

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything a training run works with, as `prepare` leaves it. Watchers are called with each MicroStep and Update."""

    family: Family
    data: RunData
    models: Models
    network: nn.Module
    optimization: Optimization
    loader: BatchLoader
    plan: Plan
    parts: StepParts
    step_settings: StepSettings
    saves: SavePoints
    previews: previews.Previews
    validation: Validation
    accelerator: Accelerator
    open_trackers: Callable[[], None]
    accumulation: int
    scale_weight_norms: float | None
    strict_compat: bool
    watchers: list[Callable[[MicroStep], None]] = field(default_factory=list)
    update_watchers: list[Callable[[Update], None]] = field(default_factory=list)

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


def prepare(args: Namespace, family: Family) -> Run:
    """Builds data sets, models, caches, network, optimizer and schedule, in the order that keeps random numbers in step.

    Raises ValueError for what the user can mend; everything about the data is checked before a model is loaded.
    """
    prompts = previews.read_prompts(args, family)
    session = Session.begin(args.seed)
    data = build_datasets(args, family, session.seed)
    accelerator = settings.accelerator(args)
    hashes = ModelHashes(args.pretrained_model_name_or_path, args.vae)
    models = base_models.load_models(args, family, accelerator)
    base_models.cache_latents(data, args, family, models, accelerator)

    network_settings = settings.network_settings(args)
    network = adapter.build(network_settings, family, models, args, accelerator)
    base_models.place_models(args, family, models, accelerator, network_settings)
    built, groups = optimization.build(args, network)
    loader = settings.batch_loader(args, data, accelerator)
    plan = settings.plan(args, data, accelerator)
    data.train.set_max_train_steps(plan.total_steps)
    hooks = adapter.Hooks(network, family.text_encoder_for_network(models), models.unet)
    optimizing = optimization.assemble(args, network, hooks, built, groups, plan, accelerator)

    scale_weight_norms = adapter.supported_scale_weight_norms(network, args.scale_weight_norms)
    metadata = run_metadata(
        args, session, hashes, family, data, plan, built, network_settings, scale_weight_norms, accelerator
    )
    parts = settings.step_parts(args, family, models, network, accelerator)
    step_settings = settings.step_settings(args)
    held_out = settings.validation_loader(args, data, accelerator, loader)
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
        saves=settings.save_points(args, network, metadata, plan, accelerator),
        previews=previews.build_previews(args, prompts, family, models, network, accelerator),
        validation=build_validation(args, held_out, parts, step_settings, session.seed, accelerator),
        accelerator=accelerator,
        open_trackers=lambda: trackers.start_trackers(accelerator, **settings.tracker_arguments(args)),
        accumulation=args.gradient_accumulation_steps,
        scale_weight_norms=scale_weight_norms,
        strict_compat=args.strict_compat,
    )


def train(run: Run) -> None:
    """Runs all epochs and saves the finished network."""
    run.open_trackers()
    reporter = trackers.Reporter(run.accelerator, total_steps=run.plan.total_steps)
    global_step = 0
    with run.optimization.evaluating():
        run.previews.at_start(global_step)
    for epoch in range(1, run.plan.num_epochs + 1):
        reporter.start_epoch(epoch, run.plan.num_epochs)
        run.optimization.hooks.epoch_start()
        for place, batch in enumerate(run.loader.epoch(epoch, first_step=global_step)):
            run.loader.note_step(global_step)
            run.optimization.hooks.step_start()
            loss, step = training_loss(batch.to(run.accelerator.device, non_blocking=True), run.parts, run.step_settings)
            run.optimization.backward(loss)
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
                with run.optimization.evaluating():
                    run.previews.after_step(global_step, epoch)
                    run.saves.after_step(global_step, epoch)
                    run.validation.after_step(reporter, epoch=epoch, global_step=global_step)
            if global_step >= run.plan.total_steps:
                break
        with run.optimization.evaluating():
            run.validation.after_epoch(reporter, epoch=epoch, global_step=global_step)
            reporter.end_epoch(epoch, global_step)
            run.saves.after_epoch(epoch, global_step)
            run.previews.after_epoch(epoch, global_step)
    reporter.close()
    run.optimization.guard.finish()
    run.accelerator.end_training()
    with run.optimization.evaluating():
        run.saves.at_end(global_step)
    run.validation.tell_best(run.saves.saved)


def limit_norms(run: Run, updating: bool) -> tuple[int, float, float] | None:
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
    with memory_shortage_explained(args):
        train(prepare(args, family))
