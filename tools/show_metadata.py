"""Prints the metadata of a .safetensors file as JSON.

python tools/show_metadata.py --model lora.safetensors
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
    parser = tool_parser("tools/show_metadata.py", "Print the metadata of a .safetensors file as JSON.")
    parser.add_argument("--model", type=str, required=True, metavar="FILE", help="the file (default: none)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    import json

    from library.models.streams import open_stream

    with mistakes_end_the_program(hint=""):
        print(json.dumps(readable(open_stream(args.model).metadata), indent=2, ensure_ascii=False))


def readable(metadata: dict[str, str]) -> dict:
    """Values that are JSON themselves, unpacked; others as they are."""
    import json

    found = {}
    for key, text in metadata.items():
        try:
            found[key] = json.loads(text) if text[:1] in "[{" else text
        except ValueError:
            found[key] = text
    return found


if __name__ == "__main__":
    main()
