"""Merges adapters of any kind and rank into one LoRA of a given rank, by singular values.

python networks/svd_merge_lora.py --models a.safetensors b.safetensors --ratios 1 0.5 --new_rank 16 --save_to merged.safetensors
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import add_device, add_merge_arguments, add_our_merge_arguments, add_ranks, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("networks/svd_merge_lora.py", "Merge adapters of any kind and rank into one LoRA of a given rank.")
    add_merge_arguments(parser)
    add_ranks(parser)
    add_device(parser)
    add_our_merge_arguments(parser)
    parser.add_argument(
        "--sd_model", type=str, default=None, metavar="MODEL", help="base model, which DoRA, OFT, IA3 and GLoRA need (default: none)"
    )
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.tasks import merge_options, merge_svd

    with mistakes_end_the_program(hint=""):
        merge_svd(merge_options(vars(args)), rank=args.new_rank, conv_rank=args.new_conv_rank, device=args.device, sd_model=args.sd_model)


if __name__ == "__main__":
    main()
