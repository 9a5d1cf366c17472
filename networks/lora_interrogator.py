"""Lists the words whose text states an adapter changes most: what it was trained on, if nobody tells.

python networks/lora_interrogator.py --sd_model model.safetensors --model lora.safetensors
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
    parser = tool_parser("networks/lora_interrogator.py", "List the words whose text states an SD1 or SD2 adapter changes most.")
    parser.add_argument("--v2", action="store_true", help="the model is SD2 (default: off)")
    parser.add_argument("--sd_model", type=str, default=None, metavar="MODEL", help="the model (default: none)")
    parser.add_argument("--model", type=str, default=None, metavar="FILE", help="the adapter (default: none)")
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="words encoded at once (default: 16)")
    parser.add_argument("--clip_skip", type=int, default=None, metavar="N", help="use the state N layers from the end (default: the last)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from networks.files.interrogate import changed_words

    with mistakes_end_the_program(hint=""):
        for word, difference in changed_words(args.sd_model, args.model, v2=args.v2, batch_size=args.batch_size, clip_skip=args.clip_skip):
            print(f"{difference:.6f}  {word}")


if __name__ == "__main__":
    main()
