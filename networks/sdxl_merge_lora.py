"""Merges adapters into an SDXL model, or several adapters into one.

python networks/sdxl_merge_lora.py --sd_model sdxl.safetensors --models a.safetensors --ratios 0.8 --precision fp16 --save_to o.safetensors
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import add_merge_arguments, add_model_merge_arguments, add_our_merge_arguments, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("networks/sdxl_merge_lora.py", "Merge LoRA and other adapters into an SDXL model, or into one adapter.")
    add_merge_arguments(parser)
    add_model_merge_arguments(parser)
    add_our_merge_arguments(parser)
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from library.models.kinds import SD1, SD2
    from networks.files.tasks import merge_factors, merge_into_model, merge_options

    with mistakes_end_the_program(hint=""):
        if args.sd_model:
            merge_into_model(merge_options(vars(args)), args.sd_model, refused=dict.fromkeys((SD1, SD2), "use networks/merge_lora.py"))
        else:
            merge_factors(merge_options(vars(args)), concat=args.concat, shuffle=args.shuffle)


if __name__ == "__main__":
    main()
