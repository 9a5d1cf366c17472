"""Logging as every script of the suite sets it up. `setup_logging` keeps the signature other tools call."""

import logging
import sys
from argparse import Namespace

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def setup_logging(args: Namespace | None = None, log_level: str | None = None, reset: bool = False) -> None:
    """Sends log lines to the terminal, or to `--console_log_file` when `args` names one.

    A second call changes nothing unless `reset` is true. Without `args` or `log_level` the level is INFO.
    """
    root = logging.getLogger()
    if root.handlers and not reset:
        return
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    level = log_level or getattr(args, "console_log_level", None) or "INFO"
    log_file = getattr(args, "console_log_file", None)
    handler = logging.FileHandler(log_file, encoding="utf-8") if log_file else logging.StreamHandler(sys.stderr)
    simple = getattr(args, "console_log_simple", False)
    handler.setFormatter(logging.Formatter("%(message)s" if simple else LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # misses a package for 4-bit products, which nothing uses
    root.setLevel(getattr(logging, level.upper()))
