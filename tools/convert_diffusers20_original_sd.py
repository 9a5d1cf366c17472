"""Converts a Stable Diffusion model between one file in the original layout and a diffusers folder.

python tools/convert_diffusers20_original_sd.py --fp16 folder model.safetensors
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
    parser = tool_parser(
        "tools/convert_diffusers20_original_sd.py", "Convert a model between one file and a diffusers folder; the target's name decides."
    )
    parser.add_argument("--v1", action="store_true", help="the model is SD1, which is seen from it as well (default: off)")
    parser.add_argument("--v2", action="store_true", help="the model is SD2, which is seen from it as well (default: off)")
    parser.add_argument(
        "--unet_use_linear_projection", action="store_true", help="folder of an SD2 model: projections as Linear layers (default: off)"
    )
    for name in ("fp16", "bf16", "float"):
        parser.add_argument(f"--{name}", action="store_true", help=f"save as {name} (default: as it is stored)")
    parser.add_argument(
        "--save_precision_as",
        type=str,
        default="no",
        choices=["fp16", "bf16", "float"],
        help="the same as one of these switches (default: no)",
    )
    parser.add_argument("--epoch", type=int, default=0, help="number to write into a .ckpt file (default: 0)")
    parser.add_argument("--global_step", type=int, default=0, help="number to write into a .ckpt file (default: 0)")
    parser.add_argument("--metadata", type=str, default=None, metavar="JSON", help="metadata of a .safetensors file (default: none)")
    parser.add_argument(
        "--variant", type=str, default=None, help="which weights of a folder to read, such as fp16 (default: the plain ones)"
    )
    parser.add_argument(
        "--reference_model",
        type=str,
        default=None,
        metavar="MODEL",
        help="folder or hub id with scheduler and tokenizer to copy (default: our own)",
    )
    parser.add_argument("--use_safetensors", action="store_true", help="folder: write .safetensors, not .bin (default: off)")
    parser.add_argument("model_to_load", type=str, help="a model file, a diffusers folder or a hub id (default: none)")
    parser.add_argument("model_to_save", type=str, help="a name with an ending for a file, without one for a folder (default: none)")
    return parser


def main() -> None:
    args = setup_parser().parse_args()
    setup_logging()
    from library.models.conversion import convert

    with mistakes_end_the_program(hint=""):
        chosen = [name for name in PRECISIONS if getattr(args, name)] + [args.save_precision_as][: args.save_precision_as != "no"]
        if len(set(chosen)) > 1:
            raise ValueError(f"only one number format can be saved, but {', '.join(chosen)} are asked for")
        convert(
            args.model_to_load, args.model_to_save, precision=chosen[0] if chosen else None, wants_v1=args.v1, wants_v2=args.v2,
            linear_projection=args.unet_use_linear_projection, metadata=args.metadata, variant=args.variant,
            reference_model=args.reference_model, use_safetensors=args.use_safetensors, epoch=args.epoch, global_step=args.global_step,
        )  # fmt: skip


if __name__ == "__main__":
    main()
