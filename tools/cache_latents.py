"""Encodes all images of a training run once and keeps the latents beside them, as --cache_latents_to_disk does.

accelerate launch tools/cache_latents.py --pretrained_model_name_or_path model.safetensors --train_data_dir images --resolution 512
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.cache_tools import cache_parser, read_cache_args
from library.args.errors import mistakes_end_the_program


def setup_parser() -> ArgumentParser:
    return cache_parser("cache_latents", "Encode all images of a training run once and keep the latents beside them.")


def main() -> None:
    args, is_sdxl = read_cache_args(setup_parser())
    from library.models.sd import SD
    from library.models.sdxl import SDXL
    from library.training.caching_recipe import cache_latents_to_disk

    with mistakes_end_the_program():
        family = (SDXL if is_sdxl else SD).from_args(args)
        cache_latents_to_disk(args, family, trust_existing=args.skip_existing)


if __name__ == "__main__":
    main()
