"""Options for measuring the loss on images that are held out of training."""

from argparse import ArgumentParser


def add_validation_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("validation")
    group.add_argument(
        "--validation_split",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the images held out, 0 to 1; 0.1 is usual (default: 0, none)",
    )
    group.add_argument(
        "--validation_seed", type=int, default=None, metavar="N", help="seed that chooses these images and their noise (default: --seed)"
    )
    group.add_argument(
        "--validate_every_n_steps", type=int, default=None, metavar="N", help="validate after each N optimizer steps (default: off)"
    )
    group.add_argument(
        "--validate_every_n_epochs", type=int, default=None, metavar="N", help="validate after each N epochs (default: each epoch)"
    )
    group.add_argument(
        "--max_validation_steps", type=int, default=None, metavar="N", help="most batches used in one validation (default: all)"
    )
