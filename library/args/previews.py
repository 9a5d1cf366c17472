"""Options for pictures drawn during training to see how it goes."""

from argparse import ArgumentParser

SAMPLERS = [
    "ddim",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm_2",
    "dpm_2_a",
    "dpmsolver",
    "dpmsolver++",
    "dpmsingle",
    "k_lms",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
]


def add_preview_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("previews")
    group.add_argument(
        "--sample_prompts",
        type=str,
        default=None,
        metavar="FILE",
        help="prompts to draw: .txt with one per line, .toml or .json (default: none)",
    )
    group.add_argument(
        "--sample_every_n_steps", type=int, default=None, metavar="N", help="draw after each N optimizer steps (default: off)"
    )
    group.add_argument(
        "--sample_every_n_epochs",
        type=int,
        default=None,
        metavar="N",
        help="draw after each N epochs; replaces --sample_every_n_steps (default: off)",
    )
    group.add_argument("--sample_at_first", action="store_true", help="draw once before training begins too (default: off)")
    group.add_argument(
        "--sample_sampler", type=str, default="ddim", choices=SAMPLERS, help="sampler of the previews; euler_a is usual (default: ddim)"
    )
