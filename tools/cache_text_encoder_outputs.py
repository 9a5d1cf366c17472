"""Encodes all captions of a training run once and keeps the text states beside them, as --cache_text_encoder_outputs_to_disk does.

accelerate launch tools/cache_text_encoder_outputs.py --sdxl --pretrained_model_name_or_path model.safetensors \\
    --train_data_dir images --resolution 1024
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.cache_tools import cache_parser, read_cache_args
from library.args.errors import mistakes_end_the_program


def setup_parser() -> ArgumentParser:
    return cache_parser("cache_text_encoder_outputs", "Encode all captions of a training run once and keep the text states beside them.")


def main() -> None:
    args, _ = read_cache_args(setup_parser(), text=True)
    from library.models.sdxl import SDXL
    from library.training.caching_recipe import cache_text_to_disk

    with mistakes_end_the_program():
        cache_text_to_disk(args, SDXL.from_args(args), trust_existing=args.skip_existing)


if __name__ == "__main__":
    main()
