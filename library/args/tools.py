"""Options that several tools share, and how a tool reads its command line.

A tool in networks/, tools/ or finetune/ may be started from any folder, with another program's folders of the same names on
PYTHONPATH: its first lines put this suite's folder in front.
"""

from argparse import ArgumentParser

from library.args.parser import TrainingParser

PRECISIONS = ["float", "fp16", "bf16"]


def tool_parser(script: str, description: str) -> ArgumentParser:
    """An empty parser whose errors name the option that was meant. script: its path, such as networks/merge_lora.py."""
    return TrainingParser(prog=script.rpartition("/")[2], usage="%(prog)s [options]", description=description)


def add_save_precision(parser: ArgumentParser, default: str) -> None:
    """default: what happens without it, in words."""
    parser.add_argument(
        "--save_precision",
        type=str,
        default=None,
        choices=[None, *PRECISIONS],
        help=f"number format of the saved file (default: {default})",
    )


def add_merge_arguments(parser: ArgumentParser) -> None:
    """What every merge of adapters takes: files, ratios, precisions."""
    add_save_precision(parser, "that of --precision")
    parser.add_argument(
        "--precision", type=str, default="float", choices=PRECISIONS, help="number format results are rounded to first (default: float)"
    )
    parser.add_argument("--save_to", type=str, default=None, metavar="FILE", help="file to write, .safetensors or .ckpt (default: none)")
    parser.add_argument("--models", type=str, nargs="*", metavar="FILE", help="adapter files to merge (default: none)")
    parser.add_argument(
        "--ratios", type=float, nargs="*", metavar="RATIO", help="strength of each of --models, in the same order (default: none)"
    )
    parser.add_argument(
        "--lbws",
        type=str,
        nargs="*",
        metavar="LIST",
        help="block weights, one list for each of --models: 17 or 26 numbers for SD1 and SD2, 12 or 20 for SDXL (default: 1 everywhere)",
    )
    parser.add_argument("--no_metadata", action="store_true", help="leave out modelspec.* metadata (default: off)")


def add_our_merge_arguments(parser: ArgumentParser) -> None:
    """Options that sd-scripts does not have."""
    parser.add_argument(
        "--exact",
        action="store_true",
        help="let ratios count as they are and the result be the exact sum: ranks add up, blocks of weight 0 are removed (default: off)",
    )
    parser.add_argument(
        "--unet_ratios", type=float, nargs="*", metavar="RATIO", help="as --ratios, for the U-Net alone (default: those of --ratios)"
    )
    parser.add_argument(
        "--te_ratios", type=float, nargs="*", metavar="RATIO", help="as --ratios, for text encoders alone (default: those of --ratios)"
    )


def add_model_merge_arguments(parser: ArgumentParser) -> None:
    """Merging into a model, or by factors."""
    parser.add_argument(
        "--sd_model", type=str, default=None, metavar="MODEL", help="model to merge into; without it one adapter is made (default: none)"
    )
    parser.add_argument("--concat", action="store_true", help="put the files' ranks side by side instead of adding them (default: off)")
    parser.add_argument("--shuffle", action="store_true", help="put ranks in a random order before they are added (default: off)")


def add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", type=str, default=None, metavar="DEVICE", help="where to compute, such as cuda (default: cpu)")


def add_ranks(parser: ArgumentParser) -> None:
    parser.add_argument("--new_rank", type=int, default=4, metavar="RANK", help="rank of the new file (default: 4)")
    parser.add_argument(
        "--new_conv_rank", type=int, default=None, metavar="RANK", help="rank of convolutions in it (default: that of --new_rank)"
    )
