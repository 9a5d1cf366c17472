"""Cuts a DyLoRA into LoRA files of every smaller rank it was trained for.

python networks/extract_lora_from_dylora.py --model dylora.safetensors --unit 4 --save_to cut.safetensors
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("networks/extract_lora_from_dylora.py", "Cut a DyLoRA into LoRA files of every smaller rank.")
    parser.add_argument("--unit", type=int, default=None, metavar="RANKS", help="step between the ranks, as it was trained (default: 1)")
    parser.add_argument(
        "--save_to", type=str, default=None, metavar="FILE", help="file to write, each rank added to its name (default: none)"
    )
    parser.add_argument("--model", type=str, default=None, metavar="FILE", help="the DyLoRA (default: none)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.rewrite import split_file

    with mistakes_end_the_program(hint=""):
        split_file(args.model, args.save_to, 1 if args.unit is None else args.unit)


if __name__ == "__main__":
    main()
