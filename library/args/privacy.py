"""What the command line gives away: to everybody on the machine, who can list processes, and to Weights & Biases, which records it."""

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

SECRETS = {"wandb_api_key": "WANDB_API_KEY", "huggingface_token": "HF_TOKEN"}


def hide_secrets(typed: Mapping[str, Any]) -> None:
    """Blots keys and tokens out of sys.argv and, on Linux, of the command line that process listings show for this process.

    The shell's history and the listing of a program that started this one keep them: the environment is the better place.
    """
    secrets = [str(typed[name]) for name in SECRETS if typed.get(name)]
    for secret in secrets:
        sys.argv[:] = [argument.replace(secret, "*" * len(secret)) for argument in sys.argv]
    if secrets and sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            _blot_out([os.fsencode(secret) for secret in secrets])


def _blot_out(secrets: list[bytes]) -> None:
    """Overwrites them where the kernel keeps this process's arguments; its place is fields 48 and 49 of proc_pid_stat(5)."""
    with open("/proc/self/stat", "rb") as file:
        facts = file.read().rpartition(b")")[2].split()
    start, end = int(facts[45]), int(facts[46])
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read()
    if not 0 < start < end or len(shown) != end - start or ctypes.string_at(start, len(shown)) != shown:
        return
    for secret in secrets:
        shown = shown.replace(secret, b"*" * len(secret))
    ctypes.memmove(start, shown, len(shown))


def warn_of_what_wandb_records(typed: Mapping[str, Any]) -> None:
    """Warns of keys, and tells of paths and names, among the values typed on the command line when --log_with sends it to wandb."""
    if typed.get("log_with") not in ("wandb", "all"):
        return
    for name, variable in SECRETS.items():
        if typed.get(name):
            logger.warning("--%s on the command line stands in the shell's history: set %s in the environment instead", name, variable)
    shown = [f"--{name}" for name, value in typed.items() if name not in SECRETS and _is_private(name, value)]
    if typed.get("huggingface_repo_id") and typed.get("huggingface_repo_visibility") != "public":
        shown.append("--huggingface_repo_id")
    if typed.get("config_file") and "--config_file" not in shown:
        shown.append("--config_file")
    if shown:
        logger.info(
            "wandb records the command line, with the paths and names in %s; a --config_file keeps the others out of it", ", ".join(shown)
        )


def _is_private(name: str, value: Any) -> bool:
    return any(os.path.isabs(str(item)) for item in (value if isinstance(value, list) else [value]))
