"""Packages and modules that options name: told as missing before anything is loaded. They are looked for, not imported."""

import importlib.util
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from library.args.names import optimizer_kind

PACKAGES = {
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "dadapt": "dadaptation",
    "schedulefree": "schedulefree",
    "prodigy": "prodigyopt",
    "lion": "lion_pytorch",
}
"""Part of an --optimizer_type -> the package it needs; the first that fits holds."""
PIP_NAMES = {"lion_pytorch": "lion-pytorch", "prodigyplus": "prodigy-plus-schedule-free", "lycoris": "lycoris-lora"}
OUR_MODULES = Path(__file__).resolve().parents[2]


def package_problems(args: Namespace, script: str) -> Iterator[str]:
    kind = optimizer_kind(args)
    package = kind.partition(".")[0] if "." in kind else next((name for part, name in PACKAGES.items() if part in kind), None)
    if package is not None and not is_there(package):
        name = args.optimizer_type or kind
        yield f"--optimizer_type {name} needs the package {package!r}: pip install {_pip(package)}, or use AdamW"
    scheduler = (args.lr_scheduler_type or "").partition(".")
    if scheduler[1] and not is_there(scheduler[0]):
        yield f"--lr_scheduler_type {args.lr_scheduler_type} needs the package {scheduler[0]!r}: pip install {_pip(scheduler[0])}"
    if args.log_with in ("wandb", "all") and not is_there("wandb"):  # accelerate would pass over it in silence
        yield f"--log_with {args.log_with} needs the package 'wandb': pip install wandb, or use --log_with tensorboard"
    records = args.log_with in ("tensorboard", "all") or (args.log_with is None and args.logging_dir is not None)
    if records and not (is_there("tensorboard") or is_there("tensorboardX")):
        yield "--logging_dir needs the package 'tensorboard': pip install tensorboard, or leave --logging_dir out"


def network_module_problems(args: Namespace, script: str) -> Iterator[str]:
    name = args.network_module
    if name is None:
        return
    package = name.partition(".")[0]
    if package == "networks":
        if not (OUR_MODULES / Path(*name.split("."))).with_suffix(".py").is_file():
            yield f"--network_module {name}: there is no such module here; the usual one is networks.lora"
    elif "/" in name or "\\" in name or name.endswith(".py"):
        yield f"--network_module {name}: give a module's name with dots, such as networks.lora, and not a path"
    elif not is_there(package):
        yield f"--network_module {name} needs the package {package!r}: pip install {_pip(package)}, or use networks.lora"


def is_there(package: str) -> bool:
    """Whether a package could be imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _pip(package: str) -> str:
    return PIP_NAMES.get(package, package)
