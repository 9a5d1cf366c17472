"""Writes the difference between two models as a LoRA.

python networks/extract_lora_from_models.py --model_org base.safetensors --model_tuned tuned.safetensors --save_to lora.safetensors
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import PRECISIONS, add_device, add_save_precision, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("networks/extract_lora_from_models.py", "Write the difference between two models as a LoRA.")
    parser.add_argument("--v2", action="store_true", help="the models are SD2, which is seen from the files as well (default: off)")
    parser.add_argument(
        "--v_parameterization", action="store_true", default=None, help="the models predict velocity, for the metadata (default: off)"
    )
    parser.add_argument("--sdxl", action="store_true", help="the models are SDXL, which is seen from the files as well (default: off)")
    parser.add_argument(
        "--load_precision",
        type=str,
        default=None,
        choices=[None, *PRECISIONS],
        help="number format both models are rounded to first (default: none)",
    )
    add_save_precision(parser, "float")
    parser.add_argument("--model_org", type=str, required=True, metavar="MODEL", help="the model before tuning (default: none)")
    parser.add_argument("--model_tuned", type=str, required=True, metavar="MODEL", help="the model after tuning (default: none)")
    parser.add_argument("--save_to", type=str, required=True, metavar="FILE", help="file to write (default: none)")
    parser.add_argument("--dim", type=int, default=4, metavar="RANK", help="rank of the LoRA (default: 4)")
    parser.add_argument(
        "--conv_dim", type=int, default=None, metavar="RANK", help="rank of larger convolutions (default: they are left out)"
    )
    add_device(parser)
    parser.add_argument(
        "--clamp_quantile",
        type=float,
        default=0.99,
        metavar="Q",
        help="cut factors to this quantile of their entries, 1: never (default: 0.99)",
    )
    parser.add_argument(
        "--min_diff", type=float, default=0.01, metavar="D", help="leave out text encoders that differ nowhere by more (default: 0.01)"
    )
    parser.add_argument("--no_metadata", action="store_true", help="leave out modelspec.* metadata (default: off)")
    for which in ("original", "tuned"):
        parser.add_argument(
            f"--load_{which}_model_to",
            type=str,
            default=None,
            metavar="DEVICE",
            help="not used: one layer is read at a time (default: none)",
        )
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.rewrite import extract_file

    with mistakes_end_the_program(hint=""):
        extract_file(
            args.model_org, args.model_tuned, args.save_to, dim=args.dim, conv_dim=args.conv_dim, clamp_quantile=args.clamp_quantile,
            min_diff=args.min_diff, load_precision=args.load_precision, save_precision=args.save_precision, device=args.device,
            v_parameterization=bool(args.v_parameterization), wants_v2=args.v2, wants_sdxl=args.sdxl, no_metadata=args.no_metadata,
        )  # fmt: skip


if __name__ == "__main__":
    main()
