"""Filling the caches of a training run without training."""

import logging
from argparse import Namespace

from accelerate import Accelerator
from accelerate.utils import set_seed

from library.models.family import TEXT_ENCODERS, VAE, Family, Models
from library.training import base_models, settings, text_caching
from library.training.datasets import RunData, build_datasets

logger = logging.getLogger(__name__)


def cache_latents_to_disk(args: Namespace, family: Family, *, trust_existing: bool) -> None:
    """Writes the latents of every image of the run that `args` describe beside the images, where training finds them.

    trust_existing: a file that is there is taken for good. Raises ValueError for data that cannot be cached.
    """
    args = Namespace(**vars(args) | {"cache_latents": True, "cache_latents_to_disk": True})
    data, models, accelerator = _loaded(args, family, trust_existing, VAE)
    with settings.fast_arithmetic(args):
        base_models.cache_latents(data, args, family, models, accelerator)
    logger.info("latents of %d images are cached", _images(data))


def cache_text_to_disk(args: Namespace, family: Family, *, trust_existing: bool) -> None:
    """Writes the text states of every caption of the run beside the images; `args` ask for that cache."""
    data, models, accelerator = _loaded(args, family, trust_existing, TEXT_ENCODERS)
    with settings.fast_arithmetic(args):
        text_caching.cache_text(data, args, family, models, accelerator)
    logger.info("text encoder outputs of %d images are cached", _images(data))


def _loaded(args: Namespace, family: Family, trust_existing: bool, part: str) -> tuple[RunData, Models, Accelerator]:
    """part: the one part of the model that is needed."""
    args.skip_cache_check = args.skip_cache_check or trust_existing
    seed = 0 if args.seed is None else args.seed
    set_seed(seed)
    data = build_datasets(args, family, seed)
    accelerator = settings.accelerator(args)
    return data, base_models.load_models(args, family, accelerator, [part]), accelerator


def _images(data: RunData) -> int:
    return sum(len(dataset.records) for dataset in data.train.datasets)
