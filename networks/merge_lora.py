"""Merges adapters into an SD1 or SD2 model, or several adapters into one.

python networks/merge_lora.py --sd_model model.safetensors --models a.safetensors b.safetensors --ratios 0.8 0.5 --save_to out.safetensors
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
    parser = tool_parser("networks/merge_lora.py", "Merge LoRA and other adapters into an SD1 or SD2 model, or into one adapter.")
    parser.add_argument("--v2", action="store_true", help="the model is SD2, which is seen from the file as well (default: off)")
    add_merge_arguments(parser)
    add_model_merge_arguments(parser)
    add_our_merge_arguments(parser)
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from library.models.kinds import SD1, SDXL
    from networks.files.tasks import merge_factors, merge_into_model, merge_options

    with mistakes_end_the_program(hint=""):
        if args.sd_model:
            refused = {SDXL: "use networks/sdxl_merge_lora.py", **({SD1: "leave out --v2"} if args.v2 else {})}
            merge_into_model(merge_options(vars(args)), args.sd_model, refused=refused)
        else:
            merge_factors(merge_options(vars(args)), concat=args.concat, shuffle=args.shuffle)


if __name__ == "__main__":
    main()
