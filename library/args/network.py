"""Options for the network that is trained on top of the base model: a LoRA or one of its relatives."""

from argparse import ArgumentParser
from argparse import _ArgumentGroup as Group


def add_network_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--network_module",
        type=str,
        default=None,
        metavar="MODULE",
        help="kind of network: networks.lora, networks.loha, networks.lokr, lycoris.kohya ... (needed)",
    )
    group.add_argument(
        "--network_dim",
        type=int,
        default=None,
        metavar="RANK",
        help="rank; more can learn more and makes larger files, 8 to 64 is usual (default: 4)",
    )
    group.add_argument(
        "--network_alpha",
        type=float,
        default=1,
        metavar="ALPHA",
        help="strength is alpha / rank; half the rank or the rank is usual (default: 1)",
    )
    group.add_argument(
        "--network_dropout",
        type=float,
        default=None,
        metavar="RATE",
        help="share of the network's values left out at each step; 0.1 to 0.3 (default: off)",
    )
    group.add_argument(
        "--network_args",
        type=str,
        default=None,
        nargs="*",
        metavar="KEY=VALUE",
        help="the module's own settings, such as conv_dim=4 conv_alpha=1 (default: none)",
    )
    add_network_training_arguments(parser.add_argument_group("training of the network"))
    add_earlier_network_arguments(parser.add_argument_group("networks made before"))


def add_earlier_network_arguments(group: Group) -> None:
    """Networks to go on from, or to train on top of."""
    group.add_argument(
        "--network_weights", type=str, default=None, metavar="FILE", help="trained network to go on from (default: start anew)"
    )
    group.add_argument(
        "--dim_from_weights", action="store_true", help="take all ranks from --network_weights (default: from --network_dim)"
    )
    group.add_argument(
        "--base_weights",
        type=str,
        default=None,
        nargs="*",
        metavar="FILE",
        help="networks merged into the base model before training, to train what is still missing (default: none)",
    )
    group.add_argument(
        "--base_weights_multiplier", type=float, default=None, nargs="*", metavar="FACTOR", help="strength of each of these (default: 1)"
    )


def add_network_training_arguments(group: Group) -> None:
    """Which parts are trained, and how fast."""
    group.add_argument("--network_train_unet_only", action="store_true", help="train no text encoder (default: both are trained)")
    group.add_argument("--network_train_text_encoder_only", action="store_true", help="train no U-Net (default: both are trained)")
    group.add_argument(
        "--unet_lr", type=float, default=None, metavar="RATE", help="learning rate of the U-Net part (default: --learning_rate)"
    )
    group.add_argument(
        "--text_encoder_lr",
        type=float,
        default=None,
        nargs="*",
        metavar="RATE",
        help="learning rate of the text encoder part, one per encoder or one for all (default: --learning_rate)",
    )
    group.add_argument(
        "--scale_weight_norms",
        type=float,
        default=None,
        metavar="NORM",
        help="keep each weight's norm below this against overtraining; 1 is usual (default: off)",
    )
