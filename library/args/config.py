"""Options that read all the others from a file, or write them to one."""

from argparse import ArgumentParser


def add_config_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("config file")
    group.add_argument(
        "--config_file",
        type=str,
        default=None,
        metavar="FILE",
        help="TOML file with options as keys; what is typed on the command line wins over it (default: none)",
    )
    group.add_argument("--output_config", action="store_true", help="write the options typed to --config_file and stop (default: off)")
