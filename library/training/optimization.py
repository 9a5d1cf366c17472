"""The optimizer side of a run: groups, optimizer, schedule, clipping, and one method that makes an update of it all."""

import functools
import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from library.optim.optimizers import BuiltOptimizer, build_optimizer
from library.training import adapter
from library.training.accelerator import allow_half_precision_gradients, average_gradients, true_anywhere
from library.training.guard import OFF, GuardSettings, NanGuard, clip, gradient_norms
from library.training.optimizer_kernels import use_kernels
from library.training.plan import Plan
from library.training.precision import DTYPES
from library.training.schedules import build_schedule
from library.training.settled_rate import SettledRate
from library.training.trackers import RateNames

logger = logging.getLogger(__name__)

SETTLED_AFTER = 50  # optimizer steps, or a tenth of the run if that is more


@dataclass(frozen=True)
class Update:
    """One optimizer update. grad_norm: scalar before clipping, None without clipping. learning_rates: those it used, by group.

    made: false if the update was left out because of values that are not finite.
    """

    global_step: int
    grad_norm: Tensor | None
    learning_rates: list[float | Tensor]
    made: bool = True


@dataclass
class Optimization:
    """built: the optimizer and its facts. optimizer: the same as accelerate wraps it. trainable: what clipping looks at."""

    built: BuiltOptimizer
    optimizer: torch.optim.Optimizer
    lr_scheduler: object
    rate_names: RateNames
    network: nn.Module
    hooks: adapter.Hooks
    trainable: Sequence[nn.Parameter]
    max_grad_norm: float
    accelerator: Accelerator
    guard: NanGuard
    settled_rate: SettledRate | None = None

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss` to the parameters'."""
        self.accelerator.backward(loss)
        self.hooks.backward_done()

    def update(self, global_step: int) -> Update:
        """Averages gradients over processes, clips, steps optimizer and schedule, clears gradients."""
        average_gradients(self.accelerator, self.network.parameters())
        self.accelerator.unscale_gradients(self.optimizer)
        trained, norms = gradient_norms(self.trainable)
        forbidden = self.guard.forbids(global_step, trained, norms)
        grad_norm = clip(trained, norms, self.max_grad_norm) if self.max_grad_norm != 0 else None
        self.hooks.gradients_ready()
        in_force = [held(group["lr"]) for group in self.built.optimizer.param_groups]
        scaler = self.accelerator.scaler
        if not forbidden or scaler is not None:  # a gradient scaler leaves the step out by itself and learns from it
            self.optimizer.step()
        skipped = self.accelerator.optimizer_step_was_skipped
        if scaler is not None:  # accelerate does not see what was left out on the device
            forbidden = self.guard.settle()
            skipped |= forbidden
        self.hooks.weights_changed()
        self._notice_settled_rate(in_force[0])
        if not skipped:
            for _ in range(self.accelerator.num_processes):
                self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Update(global_step, grad_norm, in_force, made=not forbidden)

    def _notice_settled_rate(self, rate: float | Tensor) -> None:
        if self.settled_rate is not None:
            text = self.settled_rate.notice(self.built.optimizer.param_groups[0]["d"], float(rate))
            if text and self.accelerator.is_main_process:
                logger.warning("%s", text)

    def logged_rates(self) -> dict[str, object]:
        """Tag -> learning rate of the coming step, as logs have it."""
        rates = [held(rate) for rate in self.lr_scheduler.get_last_lr()]
        return self.rate_names.record(rates, self.built.optimizer.param_groups)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Schedule-free optimizers show their averaged weights inside, the trained ones outside; others stay as they are.

        The trained weights come back to the last bit, so looking at the averaged ones changes nothing in the run.
        """
        if not self.built.schedule_free:
            yield
            return
        weights = [parameter for group in self.built.optimizer.param_groups for parameter in group["params"]]
        trained = [weight.detach().clone() for weight in weights]
        self.built.optimizer.eval()
        self.hooks.weights_changed()
        yield
        self.built.optimizer.train()
        with torch.no_grad():
            torch._foreach_copy_(weights, trained)
        self.hooks.weights_changed()


def held(rate: float | Tensor) -> float | Tensor:
    """A learning rate as it is now; AdaFactor keeps its own in tensors that the next step overwrites."""
    return rate.clone() if isinstance(rate, Tensor) else rate


def build(args: Namespace, network: nn.Module) -> tuple[BuiltOptimizer, adapter.ParameterGroups]:
    """The optimizer over the network's groups; the network is still on the CPU then."""
    groups = adapter.parameter_groups(
        network, text_encoder_lr=args.text_encoder_lr, unet_lr=args.unet_lr, learning_rate=args.learning_rate
    )
    built = build_optimizer(
        args.optimizer_type,
        args.optimizer_args or [],
        groups.groups,
        learning_rate=args.learning_rate,
        lr_scheduler=args.lr_scheduler,
        lr_warmup_steps=args.lr_warmup_steps,
        max_grad_norm=args.max_grad_norm,
        use_8bit_adam=args.use_8bit_adam,
        use_lion_optimizer=args.use_lion_optimizer,
        fused=args.mixed_precision != "fp16" or args.nan_guard != OFF,  # else only the step itself tells whether the scaler left it out
    )
    return built, groups


def assemble(
    args: Namespace,
    network: nn.Module,
    hooks: adapter.Hooks,
    built: BuiltOptimizer,
    groups: adapter.ParameterGroups,
    plan: Plan,
    accelerator: Accelerator,
) -> Optimization:
    """Adds the schedule, moves the network to the device and turns on the gradients of what is trained."""
    lr_scheduler = build_schedule(args, built, plan.total_steps, accelerator.num_processes)
    optimizer = place_network(args, network, built, accelerator)
    anywhere = functools.partial(true_anywhere, accelerator)
    use_kernels(built.optimizer, accelerator.device, anywhere)
    if hasattr(network, "prepare_grad_etc"):
        network.prepare_grad_etc(*hooks.targets)
    trainable = adapter.trainable_parameters(network, built.optimizer.param_groups, strict_compat=args.strict_compat)
    if accelerator.mixed_precision in ("fp16", "bf16") and hasattr(network, "compute_in"):
        network.compute_in(DTYPES[accelerator.mixed_precision])
    return Optimization(
        built=built,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        rate_names=rate_names(args, built, groups),
        network=network,
        hooks=hooks,
        trainable=trainable,
        max_grad_norm=args.max_grad_norm,
        accelerator=accelerator,
        guard=NanGuard(
            GuardSettings(args.nan_guard, args.nan_guard_patience),
            network,
            built.optimizer,
            lr_scheduler,
            accelerator.scaler,
            anywhere,
        ),
        settled_rate=SettledRate(max(SETTLED_AFTER, plan.total_steps // 10)) if built.adapts_rate and not built.one_adapted_rate else None,
    )


def place_network(args: Namespace, network: nn.Module, built: BuiltOptimizer, accelerator: Accelerator):
    """Moves the adapter to the device, in half precision with --full_fp16 / --full_bf16; returns the prepared optimizer."""
    dtype = DTYPES[args.mixed_precision] if args.full_fp16 or args.full_bf16 else None
    network.to(accelerator.device, dtype)
    if args.gradient_checkpointing is True and hasattr(network, "enable_gradient_checkpointing"):
        network.enable_gradient_checkpointing()
    prepared = accelerator.prepare_optimizer(built.optimizer)
    if args.full_fp16:
        allow_half_precision_gradients(accelerator)
    return prepared


def rate_names(args: Namespace, built: BuiltOptimizer, groups: adapter.ParameterGroups) -> RateNames:
    """How this run's learning rates are called in the logs."""
    return RateNames(
        descriptions=groups.descriptions,
        unet_only=args.network_train_unet_only,
        with_d=built.adapts_rate and not built.one_adapted_rate,
        with_d_of_first=built.one_adapted_rate,
    )
