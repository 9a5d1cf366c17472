"""Where in its data a run stands, and where it begins: at the start, after a saved state, or where the options say. Pure arithmetic."""

from dataclasses import dataclass

from library.training.plan import Plan


@dataclass(frozen=True)
class Position:
    """epoch: the one going on, from 1. batches_done: of that epoch, in this process. global_step: optimizer updates done.

    ended: once all batches are done, whether the epoch's saves, previews and validation are done too.
    """

    epoch: int = 1
    batches_done: int = 0
    global_step: int = 0
    ended: bool = True


def after_steps(steps: int, plan: Plan, accumulation: int) -> Position:
    """The position once `steps` updates are done; a finished epoch is left for the next one."""
    epochs, updates = divmod(steps, plan.updates_per_epoch)
    return Position(epochs + 1, updates * accumulation, steps)


def next_epoch_if_done(position: Position, batches: int) -> Position:
    """The same position, but an epoch that has ended is the beginning of the next one. batches: to an epoch, in this process."""
    if position.batches_done < batches or not position.ended:
        return position
    return Position(position.epoch + 1, 0, position.global_step)


def reference_start(steps: int, plan: Plan, *, batches: int, accumulation: int, skip: bool) -> Position:
    """Where sd-scripts begins after `steps` updates; batches: to an epoch, in this process.

    Without `skip` the steps count from 0 again and a part of an epoch is done again. With it only the remainder within the epoch is
    counted, and with accumulation batches and updates are mixed up.
    """
    if not skip:
        return Position(steps // plan.updates_per_epoch + 1, 0, 0)
    steps *= accumulation
    epochs = steps // plan.updates_per_epoch
    remainder = steps - epochs * batches
    return Position(epochs + 1, max(0, remainder), remainder)
