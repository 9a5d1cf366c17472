"""What the command line gives away to Weights & Biases, which records it and may show it to others."""

import logging
import os
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

SECRETS = {"wandb_api_key": "WANDB_API_KEY", "huggingface_token": "HF_TOKEN"}


def warn_of_what_wandb_records(typed: Mapping[str, Any]) -> None:
    """Warns of keys, and tells of paths and names, among the values typed on the command line when --log_with sends it to wandb."""
    if typed.get("log_with") not in ("wandb", "all"):
        return
    for name, variable in SECRETS.items():
        if typed.get(name):
            logger.warning("--%s on the command line is recorded by wandb: set %s in the environment instead", name, variable)
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
