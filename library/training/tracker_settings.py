"""The file of --log_tracker_config. Without torch."""

from typing import Any

import toml


def tracker_settings(path: str) -> dict[str, dict[str, Any]]:
    """The tables of --log_tracker_config, one for each tracker. Raises ValueError for a file that has something else."""
    try:
        tables = toml.load(path)
    except (ValueError, IndexError) as fault:  # the toml package lets an IndexError through on some broken files
        raise ValueError(f"--log_tracker_config {path} is not valid TOML in UTF-8: {fault}") from fault
    plain = [name for name, table in tables.items() if not isinstance(table, dict)]
    if plain:
        raise ValueError(f"--log_tracker_config {path}: {plain[0]} must be a table, such as [wandb] or [tensorboard]")
    return tables
