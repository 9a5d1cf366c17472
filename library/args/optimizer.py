"""Options for the optimizer and its learning rate."""

from argparse import ArgumentParser


def add_optimizer_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("optimizer")
    group.add_argument(
        "--optimizer_type",
        type=str,
        default="",
        metavar="NAME",
        help="AdamW, AdamW8bit, Lion, Prodigy, Adafactor, DAdaptation, AdamWScheduleFree ..., a class of torch.optim, "
        "or a dotted path (default: AdamW)",
    )
    group.add_argument(
        "--optimizer_args",
        type=str,
        default=None,
        nargs="*",
        metavar="KEY=VALUE",
        help='its own settings, such as weight_decay=0.01 "betas=0.9,0.99" (default: none)',
    )
    group.add_argument(
        "--learning_rate",
        type=float,
        default=2.0e-6,
        metavar="RATE",
        help="step size; 1e-4 is usual for a LoRA, 1 for Prodigy and DAdapt* (default: 2e-6)",
    )
    group.add_argument(
        "--max_grad_norm",
        type=float,
        default=1.0,
        metavar="NORM",
        help="longest gradient, longer ones are shortened; 0 switches it off (default: 1.0)",
    )
    group.add_argument("--use_8bit_adam", action="store_true", help="old form of --optimizer_type AdamW8bit (default: off)")
    group.add_argument("--use_lion_optimizer", action="store_true", help="old form of --optimizer_type Lion (default: off)")
    group.add_argument(
        "--fused_backward_pass",
        action="store_true",
        help="only checked here: needs Adafactor and one accumulation step, changes nothing for a LoRA (default: off)",
    )
