"""Options for what is shown on the console and recorded by TensorBoard or Weights & Biases."""

from argparse import ArgumentParser


def add_tracking_arguments(parser: ArgumentParser) -> None:
    _add_console(parser.add_argument_group("console"))
    _add_trackers(parser.add_argument_group("tracking"))


def _add_console(group) -> None:
    group.add_argument(
        "--console_log_level",
        type=str,
        default=None,
        choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        help="least important messages still shown (default: INFO)",
    )
    group.add_argument(
        "--console_log_file",
        type=str,
        default=None,
        metavar="FILE",
        help="write messages to this file instead of the terminal (default: the terminal)",
    )
    group.add_argument("--console_log_simple", action="store_true", help="messages without time and level (default: with them)")


def _add_trackers(group) -> None:
    group.add_argument(
        "--logging_dir",
        type=str,
        default=None,
        metavar="FOLDER",
        help="folder for TensorBoard records; giving it switches them on (default: none)",
    )
    group.add_argument(
        "--log_with",
        type=str,
        default=None,
        choices=["tensorboard", "wandb", "all"],
        help="where loss and learning rates are recorded (default: tensorboard if --logging_dir is given)",
    )
    group.add_argument(
        "--log_prefix", type=str, default=None, metavar="TEXT", help="text before the time in the name of the run's folder (default: none)"
    )
    group.add_argument(
        "--log_tracker_name",
        type=str,
        default=None,
        metavar="NAME",
        help="name of the tracker, the project in wandb (default: network_train)",
    )
    group.add_argument(
        "--log_tracker_config", type=str, default=None, metavar="FILE", help="TOML file with settings passed to the tracker (default: none)"
    )
    group.add_argument(
        "--wandb_run_name", type=str, default=None, metavar="NAME", help="name of the run in wandb (default: wandb makes one up)"
    )
    group.add_argument(
        "--wandb_api_key",
        type=str,
        default=None,
        metavar="KEY",
        help="wandb key; better set as WANDB_API_KEY in the environment, where nobody reads it (default: none)",
    )
    group.add_argument("--log_config", action="store_true", help="record the options of the run, without paths and keys (default: off)")
