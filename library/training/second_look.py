"""What torch alone can tell to be wrong, before the libraries are imported that take three times as long."""

import os
from argparse import Namespace

from library.data.custom_dataset import dataset_class
from library.training.first_look import in_silence
from library.training.misfits import check_recorded_optimizer
from library.training.precision import check_precision
from library.training.saved_run import opened_run
from library.training.schedules import check_settings


def second_look(args: Namespace) -> None:
    """Raises ValueError for a precision, an optimizer or a schedule that cannot work here, and a data set class that is not there.

    A schedule over a number of epochs is looked at later, when the number of steps is known: the images tell that.
    """
    if args.debug_dataset:
        return
    check_precision(args.mixed_precision)
    if args.dataset_class is not None:
        dataset_class(args.dataset_class)
    total_steps = args.max_train_steps if args.max_train_epochs is None else None
    check_settings(args, total_steps, int(os.environ.get("WORLD_SIZE", "1")))
    with in_silence():
        check_recorded_optimizer(opened_run(args), args)
