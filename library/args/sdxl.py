"""Options that only SDXL scripts have."""

from argparse import ArgumentParser


def add_sdxl_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("SDXL")
    group.add_argument(
        "--cache_text_encoder_outputs",
        action="store_true",
        help="encode all captions once; they must be the same at every step and no text encoder trained (default: off)",
    )
    group.add_argument(
        "--cache_text_encoder_outputs_to_disk",
        action="store_true",
        help="keep that as .npz files beside the images; means --cache_text_encoder_outputs too (default: off)",
    )
    group.add_argument(
        "--disable_mmap_load_safetensors",
        action="store_true",
        help="read the model file whole instead of mapping it; faster on network drives (default: mapped)",
    )
