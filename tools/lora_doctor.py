"""Tells what an adapter file is, what is wrong with it and who can load it; mends it or changes its names.

python tools/lora_doctor.py lora.safetensors --fix
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import mistakes_end_the_program
from library.args.tools import add_save_precision, tool_parser
from library.utils import setup_logging


def setup_parser() -> ArgumentParser:
    parser = tool_parser("tools/lora_doctor.py", "Tell what an adapter file is and what is wrong with it; mend it or change its names.")
    parser.add_argument("file", type=str, help="the adapter file, of any program (default: none)")
    parser.add_argument("--fix", action="store_true", help="write a copy without what is wrong (default: off)")
    parser.add_argument(
        "--convert",
        type=str,
        default=None,
        choices=["kohya", "diffusers", "comfyui"],
        help="write a copy under the names of another program (default: kohya's if --fix is given)",
    )
    parser.add_argument(
        "--save_to", type=str, default=None, metavar="FILE", help="the file to write (default: the name with -fixed or -<names> added)"
    )
    add_save_precision(parser, "with --fix the format most tensors have, else as in the file")
    parser.add_argument("--keep_metadata", action="store_true", help="with --fix: keep metadata about images and folders (default: off)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.doctor import examine

    with mistakes_end_the_program(hint=""):
        for line in examine(
            args.file, fix=args.fix, naming=args.convert, save_to=args.save_to, save_precision=args.save_precision,
            keep_metadata=args.keep_metadata,
        ):  # fmt: skip
            print(line)


if __name__ == "__main__":
    main()
