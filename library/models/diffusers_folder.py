"""Modules from a diffusers folder or a model on the Hugging Face hub, one subfolder per part."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

LACKING = "keys are missing"
"""What diffusers says of a file that lacks weights; newer versions leave them without memory, a NotImplementedError when they are moved."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without progress bars and messages of diffusers and transformers; what goes wrong they raise as well."""
    loggings = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logging.get_verbosity() for logging in loggings]
    bars = [logging.is_progress_bar_enabled() for logging in loggings]
    for logging in loggings:
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level, bar in zip(loggings, levels, bars, strict=True):
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def local_folder(path: str, variant: str | None = None) -> str:
    """The folder of a whole model: `path` itself, or a copy of the hub's model of that id, of which only what is needed is fetched.

    variant: such as "fp16", for the weights of that name. Raises ValueError if there is no such model.
    """
    if os.path.isdir(path):
        return path
    unused = {"safety_checker": None, "feature_extractor": None}
    try:
        with quiet_libraries():
            return str(diffusers.DiffusionPipeline.download(path, variant=variant, **unused))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no such file or folder, and no model of that id on the hub ({str(error).splitlines()[0]})") from error


def part_config(path: str, subfolder: str) -> Mapping[str, Any]:
    """config.json of a part of a model. Raises ValueError if there is none."""
    try:
        with quiet_libraries():
            return diffusers.UNet2DConditionModel.load_config(path, subfolder=subfolder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no diffusers model: {subfolder}/config.json cannot be read, here or on the hub") from error


def load_part(kind: type, path: str, subfolder: str | None, *, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """One part of a model, in `dtype` on `device`; draws no random numbers.

    Weights in half precision may lie beside the others as variant "fp16": it is tried first for fp16 and last otherwise.
    Raises ValueError naming the folder if no weights can be read.
    """
    variants = ("fp16", None) if dtype == torch.float16 else (None, "fp16")
    options = {} if subfolder is None else {"subfolder": subfolder}
    failures = []
    for variant in variants:
        try:
            with quiet_libraries():
                return kind.from_pretrained(path, torch_dtype=dtype, variant=variant, **options).to(device)
        except (OSError, ValueError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or LACKING in str(error):
                raise ValueError(f"{path}: cannot load {subfolder or 'the model'}: its file lacks weights; download it again") from error
            failures.append(error)
    reason = failures[variants.index(None)]
    raise ValueError(f"{path}: cannot load {subfolder or 'the model'} ({str(reason).splitlines()[0]})") from reason
