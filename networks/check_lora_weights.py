"""Lists the tensors of an adapter with their mean and smallest absolute values.

python networks/check_lora_weights.py lora.safetensors
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
    parser = tool_parser("networks/check_lora_weights.py", "List an adapter's tensors with their mean and smallest absolute values.")
    parser.add_argument("file", type=str, help="the adapter file (default: none)")
    parser.add_argument("-s", "--show_all_keys", action="store_true", help="list every tensor's name and shape first (default: off)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.listing import listing

    with mistakes_end_the_program(hint=""):
        for line in listing(args.file, all_keys=args.show_all_keys):
            print(line)


if __name__ == "__main__":
    main()
