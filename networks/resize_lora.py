"""Makes a file of smaller rank from a LoRA or another adapter.

python networks/resize_lora.py --model lora.safetensors --new_rank 32 --dynamic_method sv_fro --dynamic_param 0.95 --save_to s.safetensors
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import add_device, add_ranks, add_save_precision, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("networks/resize_lora.py", "Make a LoRA of smaller rank from a LoRA or another adapter.")
    add_save_precision(parser, "as in the file")
    add_ranks(parser)
    parser.add_argument("--save_to", type=str, default=None, metavar="FILE", help="file to write, .safetensors or .ckpt (default: none)")
    parser.add_argument("--model", type=str, default=None, metavar="FILE", help="adapter file to resize (default: none)")
    add_device(parser)
    parser.add_argument("--verbose", action="store_true", help="tell what became of each module (default: off)")
    parser.add_argument(
        "--dynamic_method",
        type=str,
        default=None,
        choices=[None, "sv_ratio", "sv_fro", "sv_cumulative"],
        help="choose each module's rank, up to --new_rank, by its singular values (default: the same rank everywhere)",
    )
    parser.add_argument(
        "--dynamic_param",
        type=float,
        default=None,
        metavar="P",
        help="sv_ratio: keep what is above the largest / P; sv_fro, sv_cumulative: keep the share P, 0 to 1 (default: none)",
    )
    parser.add_argument(
        "--svd_lowrank_niter", type=int, default=None, metavar="N", help="accepted and not used: the result is exact (default: none)"
    )
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.rewrite import resize_file

    with mistakes_end_the_program(hint=""):
        resize_file(
            args.model, args.save_to, rank=args.new_rank, conv_rank=args.new_conv_rank, method=args.dynamic_method,
            param=args.dynamic_param, save_precision=args.save_precision, device=args.device, verbose=args.verbose,
        )  # fmt: skip


if __name__ == "__main__":
    main()
