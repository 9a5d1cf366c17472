"""What can be seen to be wrong before torch is imported, so that a mistake is told in a second or two: `first_look`.

Nothing is kept of it: `understand` reads the same again, in the order that random numbers need, and finds more.
"""

import json
import logging
import os
import random
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from library.data.buckets import plan_buckets
from library.data.nothing_found import nothing_found
from library.data.subsets import Subset
from library.models.kinds import base_model_version, kind_of_tensors, kind_of_unet_config, require_kind
from library.models.model_files import is_safetensors, is_single_file, tensor_names
from library.training.listing import check_caching, check_weights, listed_images, planned_datasets
from library.training.preview_prompts import draws_previews, read_preview_prompts
from library.training.saved_run import check_fits, check_unfinished, opened_run
from library.training.tracker_settings import tracker_settings

ANY_SIZE = (512, 512)
MOST_FILES, LARGEST_METADATA = 20_000, 2**25
"""Entries of a folder and bytes of a metadata file; what is larger is read once only."""


def first_look(args: Namespace, kind: str) -> None:
    """Raises ValueError for a base model that is no `kind` (see library.models.kinds), and for images, prompts and states
    that cannot be used.
    """
    if not args.debug_dataset and not args.lr_scheduler_preview:
        look_at_model(args.pretrained_model_name_or_path, kind)
        with in_silence():
            look_at_state(args, base_model_version(kind, v_parameterization=args.v_parameterization))
    if draws_previews(args):
        with in_silence():
            read_preview_prompts(args.sample_prompts, default_size=ANY_SIZE, samplers=())
    if args.log_tracker_config:
        tracker_settings(args.log_tracker_config)
    if args.dataset_class is None:
        with in_silence():
            look_at_images(args)


def look_at_model(path: str, kind: str) -> None:
    """Looks at the names of a .safetensors file's tensors, or at a folder's configuration."""
    if is_single_file(path):
        if is_safetensors(path):
            require_kind(kind_of_tensors(tensor_names(path)), kind, path)
        return
    configuration = Path(path) / "unet" / "config.json"
    if configuration.is_file():
        try:
            content = json.loads(configuration.read_text(encoding="utf-8"))
        except ValueError:  # whoever loads the folder says more
            return
        require_kind(kind_of_unet_config(content), kind, path)


def look_at_state(args: Namespace, model: str) -> None:
    saved = opened_run(args)
    check_fits(saved, args, model)
    check_unfinished(saved, args)


def look_at_images(args: Namespace) -> None:
    """Very large folders are listed once only, later: there an answer takes as long as torch does."""
    planned = planned_datasets(args)
    for settings in planned:
        plan_buckets(settings)
    if any(is_large(subset) for settings in planned for subset in settings.subsets):
        return
    listed = listed_images(args, seed=0)
    if not listed.records:
        raise nothing_found(planned)
    check_caching(args, listed)
    if args.weighted_captions:
        check_weights(listed.records)


def is_large(subset: Subset) -> bool:
    if subset.metadata_file is not None:
        return os.path.isfile(subset.metadata_file) and os.path.getsize(subset.metadata_file) > LARGEST_METADATA
    if not subset.image_dir or not os.path.isdir(subset.image_dir):
        return False
    with os.scandir(subset.image_dir) as entries:
        return sum(1 for _ in entries) > MOST_FILES


@contextmanager
def in_silence() -> Iterator[None]:
    """What is merely odd is told when it is read in earnest; random numbers are as before."""
    state, level = random.getstate(), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
        random.setstate(state)
