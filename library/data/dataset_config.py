"""From a --dataset_config file, or the folders of the command line, to the data sets of a run.

A value is looked for in the subset's table, its data set's, [general], the command line and our own defaults, in this
order; the first one given wins, and false and 0 are given.
"""

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from library.data.dataset_schema import (
    CONDITIONING,
    DREAMBOOTH,
    KEYS,
    METADATA,
    check_options,
    check_table,
    subset_kind,
)
from library.data.folders import class_folders, count_images
from library.data.subsets import DatasetSettings, Subset

logger = logging.getLogger(__name__)


def read_dataset_config(path: str | Path) -> dict:
    """The content of a .toml or .json file, not checked yet.

    Raises ValueError naming the file if it is missing, has another ending, or cannot be parsed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".toml", ".json"):
        raise ValueError(f"--dataset_config {path}: the file name must end in .toml or .json")
    if not path.is_file():
        raise ValueError(f"--dataset_config {path}: there is no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        config = json.loads(text) if ending == ".json" else _parse_toml(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"--dataset_config {path} is not UTF-8 text ({error}): save it again as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"--dataset_config {path}: its tables or lists are nested too deeply") from error
    except (ValueError, IndexError) as error:  # the toml package lets an IndexError through on some broken files
        hint = " (write Windows paths with / or in 'single quotes')" if ending == ".toml" and "\\" in text else ""
        raise ValueError(f"--dataset_config {path} is not valid {ending[1:].upper()}: {error}{hint}") from error
    if not isinstance(config, dict):
        raise ValueError(f"--dataset_config {path}: the file must hold a table with 'datasets', got a {type(config).__name__}")
    return config


def _parse_toml(text: str) -> dict:
    """Python reads TOML from 3.11 on; 3.10 needs the package. Both raise subclasses of ValueError."""
    try:
        import tomllib
    except ModuleNotFoundError:
        import toml as tomllib
    return tomllib.loads(text)


def folder_config(train_data_dir: str | None, reg_data_dir: str | None, *, strict_compat: bool = False) -> dict:
    """The folders `10_name` inside --train_data_dir and --reg_data_dir as one data set; "" or None means no such option.

    Sub-folders are taken in order of their names, with `strict_compat` in the order the system lists them.
    Raises ValueError if there is no training folder, saying what was found instead.
    """
    subsets = []
    for option, base, is_reg in (("--train_data_dir", train_data_dir, False), ("--reg_data_dir", reg_data_dir, True)):
        found = class_folders(base, in_system_order=strict_compat) if base and Path(base).is_dir() else []
        if base and not found:
            _nothing_in(option, base, fatal=not is_reg)
        subsets += [
            {"image_dir": folder.path, "num_repeats": folder.repeats, "class_tokens": folder.class_tokens, "is_reg": is_reg}
            for folder in found
        ]
    if not any(not subset["is_reg"] for subset in subsets):
        raise ValueError("there is nothing to train on: give --train_data_dir, --in_json or --dataset_config")
    return {"datasets": [{"subsets": subsets}]}


def _nothing_in(option: str, base: str, fatal: bool) -> None:
    """Tells that `base` gave no sub-folder to use: an error for training images, a warning for regularisation."""
    if not Path(base).is_dir():
        message = f"{option} {base}: there is no such folder"
    else:
        message = f"{option} {base} holds no folder named like 10_name (10 is how often each image is repeated)"
        images = count_images(base)
        if images:
            message += f"; it holds {images} images itself: move them into {Path(base) / '10_name'}"
    if fatal:
        raise ValueError(message)
    logger.warning("%s; going on without regularisation images", message)


def metadata_config(image_dir: str | None, in_json: str) -> dict:
    """The metadata file of --in_json, its images in --train_data_dir, as one data set."""
    return {"datasets": [{"subsets": [{"image_dir": image_dir or None, "metadata_file": in_json}]}]}


def plan_datasets(config: dict, defaults: dict, *, masked_loss: bool, source: str = "") -> list[DatasetSettings]:
    """The data sets of a run, every value found and in our types.

    defaults: the command line's values under the file's key names, and prior_loss_weight; other names are not looked at.
    masked_loss: whether conditioning_data_dir (masks) may be used. source: how errors name the file.
    Raises ValueError telling all mistakes of the file at once, each with its table, key and value.
    """
    options, mistakes = check_options(defaults)
    general, datasets = _checked_tables(config, masked_loss, mistakes)
    settings = []
    for index, (dataset, subsets) in enumerate(datasets):
        if _first("resolution", dataset, general, options, defaults) is None:
            mistakes.append(f"datasets[{index}]: resolution is missing: give it here, in [general] or as --resolution 512")
        elif not mistakes:
            settings.append(_dataset_settings(dataset, subsets, general, options, defaults.get("prior_loss_weight")))
    if mistakes:
        name = f"--dataset_config {source}" if source else "the data set settings"
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ValueError(f"{name}: {count}\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return settings


def _checked_tables(config: dict, masked_loss: bool, mistakes: list[str]) -> tuple[dict, list[tuple[dict, list[dict]]]]:
    """[general], and for each data set its table and its subsets' tables; what is wrong is added to `mistakes`."""

    def checked(given: Any, name: str, *table) -> dict:
        if not isinstance(given, dict):
            mistakes.append(f"{name} must be a table, got {given!r}")
            return {}
        values, wrong = check_table(given, *table)
        mistakes.extend(f"{name}: {mistake}" for mistake in wrong)
        return values

    def tables(given: Any, name: str, heading: str) -> list:
        if isinstance(given, list) and given:
            return given
        mistakes.append(f"{name} is missing or empty: at least one [[{heading}]] is needed")
        return []

    for key in config.keys() - {"general", "datasets"}:
        mistakes.append(f"unknown table or key {key!r} at the top of the file: known are 'general' and 'datasets'")
    general = checked(config.get("general") or {}, "general", "G")
    datasets = []
    for index, dataset in enumerate(tables(config.get("datasets"), "datasets", "datasets")):
        name = f"datasets[{index}]"
        values = checked(dataset, name, "D")
        subsets = tables(dataset.get("subsets"), f"{name}.subsets", "datasets.subsets") if isinstance(dataset, dict) else []
        subsets = [_given(subset) if isinstance(subset, dict) else subset for subset in subsets]
        kinds = [subset_kind(subset) if isinstance(subset, dict) else DREAMBOOTH for subset in subsets]
        mistakes.extend(f"{name}: {mistake}" for mistake in _kind_mistakes(kinds, masked_loss))
        datasets.append((values, [checked(s, f"{name}.subsets[{i}]", "S", kinds[i]) for i, s in enumerate(subsets)]))
    return general, datasets


def _given(table: dict) -> dict:
    return {key: value for key, value in table.items() if value is not None}


def _kind_mistakes(kinds: list[str], masked_loss: bool) -> list[str]:
    mistakes = []
    if CONDITIONING in kinds and not masked_loss:
        mistakes.append("conditioning_data_dir (masks) needs the option --masked_loss")
    if len(set(kinds)) > 1:
        told = {DREAMBOOTH: "image folders", METADATA: "metadata_file", CONDITIONING: "conditioning_data_dir"}
        found = ", ".join(f"subsets[{index}]: {told[kind]}" for index, kind in enumerate(kinds))
        mistakes.append(f"subsets of different kinds in one data set ({found}): give each kind its own [[datasets]]")
    return mistakes


def _first(key: str, *tables: dict) -> Any:
    return next((table[key] for table in tables if table.get(key) is not None), None)


def _dataset_settings(dataset: dict, subsets: list[dict], general: dict, options: dict, prior_loss_weight) -> DatasetSettings:
    names = [field.name for field in fields(DatasetSettings) if field.name in KEYS]
    values = {name: _first(name, dataset, general, options) for name in names}
    values["prior_loss_weight"] = prior_loss_weight
    values["validation_split"] = _share(values["validation_split"])
    values["subsets"] = [_subset(subset, dataset, general, options) for subset in subsets]
    return DatasetSettings(**{name: value for name, value in values.items() if value is not None})


def _subset(subset: dict, dataset: dict, general: dict, options: dict) -> Subset:
    kind = subset_kind(subset)
    values = {}
    for name, key in KEYS.items():
        if kind not in key.kinds:
            continue
        own = name.startswith("validation_")      # the data set's own value is looked up when images are registered
        values[name] = subset.get(name) if own else _first(name, subset, dataset, general, options)
    extension = values.get("caption_extension")
    if extension and not extension.startswith("."):
        values["caption_extension"] = f".{extension}"
    values["validation_split"] = _share(values["validation_split"])
    return Subset(**{name: value for name, value in values.items() if value is not None})


def _share(validation_split: float | None) -> float | None:
    if validation_split is None or 0 <= validation_split <= 1:
        return validation_split
    logger.warning("validation_split %s is not between 0 and 1: no images are held out", validation_split)
    return 0.0
