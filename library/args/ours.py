"""Options of this suite that kohya's sd-scripts of February 2026 do not have."""

from argparse import ArgumentParser


def add_our_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("new in this suite")
    group.add_argument(
        "--strict_compat",
        action="store_true",
        help="reproduce sd-scripts number for number, its known defects included (default: off, they are mended)",
    )
    group.add_argument(
        "--skip_image_resolution",
        type=str,
        default=None,
        metavar="SIZE",
        help="leave out images not larger than this, '512' or 'width,height' (default: use all)",
    )
