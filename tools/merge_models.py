"""Mixes whole models of one kind, weight by weight.

python tools/merge_models.py --models a.safetensors b.safetensors --ratios 0.7 0.3 --output mix.safetensors --saving_precision fp16
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import PRECISIONS, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("tools/merge_models.py", "Mix whole models of one kind, weight by weight.")
    parser.add_argument("--models", type=str, nargs="+", metavar="FILE", help="model files to mix (default: none)")
    parser.add_argument("--output", type=str, metavar="FILE", help="file to write, .safetensors or .ckpt (default: none)")
    parser.add_argument("--ratios", type=float, nargs="+", metavar="RATIO", help="share of each of --models (default: equal shares)")
    parser.add_argument("--unet_only", action="store_true", help="mix U-Nets; the rest is that of the first model (default: off)")
    parser.add_argument("--device", type=str, default="cpu", metavar="DEVICE", help="where to compute (default: cpu)")
    parser.add_argument("--precision", type=str, default="float", choices=PRECISIONS, help="number format to compute in (default: float)")
    parser.add_argument(
        "--saving_precision", type=str, default="float", choices=PRECISIONS, help="number format of the saved file (default: float)"
    )
    parser.add_argument("--show_skipped", action="store_true", help="list tensors that not every model has (default: off)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.mix import mix_files

    with mistakes_end_the_program(hint=""):
        mix_files(
            args.models, args.ratios, args.output, unet_only=args.unet_only, device=args.device, work_precision=args.precision,
            save_precision=args.saving_precision, show_skipped=args.show_skipped,
        )  # fmt: skip


if __name__ == "__main__":
    main()
