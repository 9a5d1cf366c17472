"""From the command line to options that are known to be good, without importing torch."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from library.args.checks import check
from library.args.config_file import ConfigFile, read_config_file, write_config_file
from library.args.errors import BadArguments, mistakes_end_the_program
from library.args.normalise import normalise
from library.args.parser import default_values, typed_values
from library.args.privacy import hide_secrets, warn_of_what_wandb_records
from library.utils import setup_logging

logger = logging.getLogger(__name__)


def read_args(parser: ArgumentParser, script: str, argv: Sequence[str] | None = None) -> Namespace:
    """The options of a run: the command line over --config_file over the defaults, normalised and checked.

    Ends the program with status 2 for a command line that cannot be read, with 1 and `error: ...` for options that cannot
    work, and with 0 once --output_config has written its file.
    """
    typed = typed_values(parser, argv)
    hide_secrets(typed)
    with mistakes_end_the_program():
        if typed.get("output_config"):
            _write_and_stop(typed, parser)
        args = merged_args(parser, typed)
        normalise(args, script, typed)
        check(args, script)
    return args


def merged_args(parser: ArgumentParser, typed: dict[str, Any]) -> Namespace:
    """Defaults, then the config file's values, then what was typed; logging is set up as they say.

    `config_file` ends without its extension, as files record it.
    """
    config = read_config_file(typed["config_file"], parser) if typed.get("config_file") else None
    args = Namespace(**default_values(parser) | (config.values if config else {}) | typed)
    try:
        setup_logging(args, reset=True)
    except OSError as fault:
        raise BadArguments(f"--console_log_file {args.console_log_file} cannot be written: {fault.strerror}; give another place") from fault
    warn_of_what_wandb_records(typed)
    if config:
        _tell(config)
        args.config_file = args.config_file.removesuffix(".toml")
    return args


def _tell(config: ConfigFile) -> None:
    logger.info("options read from %s", config.path)
    if config.ignored:
        level = logging.INFO if config.ignored_only_fillers else logging.WARNING
        logger.log(level, "%s: ignored, for no option here takes them: %s", config.path, ", ".join(config.ignored.values()))


def _write_and_stop(typed: dict[str, Any], parser: ArgumentParser) -> None:
    if not typed.get("config_file"):
        raise BadArguments("--output_config needs the name of the file to write: add --config_file NAME")
    path: Path = write_config_file(typed["config_file"], typed, parser)
    print(f"options written to {path}")
    sys.exit(0)
