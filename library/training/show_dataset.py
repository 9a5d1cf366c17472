"""--debug_dataset: writes a contact sheet of the training data and stops; no model is loaded."""

import dataclasses
import logging
from argparse import Namespace
from pathlib import Path

from library.data.contact_sheet import write_contact_sheet
from library.data.loader import BatchLoader
from library.models.family import Family
from library.training.datasets import build_datasets
from library.training.run_metadata import Session

logger = logging.getLogger(__name__)

FOLDER = "debug_dataset"


def show_dataset(args: Namespace, family: Family) -> Path:
    """Writes what the first epoch would train on into --output_dir (or the current folder); returns the page."""
    session = Session.begin(args.seed)
    data = build_datasets(args, family, session.seed)
    group = data.train
    group.set_tokenize(None)
    group.set_max_train_steps(args.max_train_steps)
    if args.cache_latents or args.cache_latents_to_disk:
        for dataset in group.datasets:      # cached images are always scaled to their bucket, though there be but one
            dataset.settings = dataclasses.replace(dataset.settings, enable_bucket=True)
    loader = BatchLoader(
        group, workers=0, persistent_workers=False, shuffle=True, strict_compat=args.strict_compat, seed=data.dataset_seed
    )
    folder = Path(args.output_dir or ".") / FOLDER
    samples = group.samples_per_epoch
    shown = write_contact_sheet(loader.epoch(1), samples, group.table(), folder)
    logger.info("--debug_dataset: %d of %d samples are shown in %s; nothing is trained", shown, samples, folder / "index.html")
    return folder / "index.html"
