"""What torch alone can tell to be wrong, before the libraries are imported that take three times as long."""

import os
from argparse import Namespace

from library.training.precision import check_precision
from library.training.schedules import check_settings


def second_look(args: Namespace) -> None:
    """Raises ValueError for a precision, an optimizer or a schedule that cannot work here.

    A schedule over a number of epochs is looked at later, when the number of steps is known: the images tell that.
    """
    if args.debug_dataset:
        return
    check_precision(args.mixed_precision)
    total_steps = args.max_train_steps if args.max_train_epochs is None else None
    check_settings(args, total_steps, int(os.environ.get("WORLD_SIZE", "1")))
