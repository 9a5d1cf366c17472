"""Options for the noise that is added to latents and for the loss that is taken."""

from argparse import ArgumentParser


def add_noise_and_loss_arguments(parser: ArgumentParser) -> None:
    _add_noise(parser.add_argument_group("noise"))
    _add_loss(parser.add_argument_group("loss"))


def _add_noise(group) -> None:
    group.add_argument(
        "--noise_offset",
        type=float,
        default=None,
        metavar="STRENGTH",
        help="shift each channel's noise so that dark and bright images can be learned; 0.05 to 0.1 is usual (default: off)",
    )
    group.add_argument(
        "--noise_offset_random_strength",
        action="store_true",
        help="a random strength between 0 and --noise_offset at every step (default: off)",
    )
    group.add_argument(
        "--adaptive_noise_scale",
        type=float,
        default=None,
        metavar="FACTOR",
        help="add the latents' mean times this to --noise_offset; 0.005 is usual (default: off)",
    )
    group.add_argument(
        "--multires_noise_iterations",
        type=int,
        default=None,
        metavar="N",
        help="add N layers of coarser and coarser noise; 6 to 10 is usual (default: off)",
    )
    group.add_argument(
        "--multires_noise_discount",
        type=float,
        default=0.3,
        metavar="FACTOR",
        help="each coarser layer is weaker by this factor; 0.1 to 0.8 (default: 0.3)",
    )
    group.add_argument(
        "--ip_noise_gamma",
        type=float,
        default=None,
        metavar="STRENGTH",
        help="disturb the noisy input further (input perturbation); 0.1 is usual (default: off)",
    )
    group.add_argument(
        "--ip_noise_gamma_random_strength",
        action="store_true",
        help="a random strength between 0 and --ip_noise_gamma at every step (default: off)",
    )
    group.add_argument(
        "--zero_terminal_snr",
        action="store_true",
        help="rescale the noise schedule so that its last step is pure noise; for v-prediction models (default: off)",
    )
    group.add_argument("--min_timestep", type=int, default=None, metavar="T", help="lowest timestep trained, 0 to 999 (default: 0)")
    group.add_argument(
        "--max_timestep",
        type=int,
        default=None,
        metavar="T",
        help="end of the timesteps trained, 1 to 1000, itself left out (default: 1000)",
    )


def _add_loss(group) -> None:
    group.add_argument(
        "--loss_type",
        type=str,
        default="l2",
        choices=["l1", "l2", "huber", "smooth_l1"],
        help="how a prediction is compared with its target (default: l2)",
    )
    group.add_argument(
        "--huber_schedule",
        type=str,
        default="snr",
        choices=["constant", "exponential", "snr"],
        help="how the width of huber and smooth_l1 changes with the timestep (default: snr)",
    )
    group.add_argument(
        "--huber_c", type=float, default=0.1, metavar="WIDTH", help="where huber and smooth_l1 turn from square to straight (default: 0.1)"
    )
    group.add_argument("--huber_scale", type=float, default=1.0, metavar="FACTOR", help="factor on that width (default: 1.0)")
    group.add_argument(
        "--min_snr_gamma",
        type=float,
        default=None,
        metavar="GAMMA",
        help="cap the weight of nearly clean images (Min-SNR); 5 is usual (default: off)",
    )
    group.add_argument(
        "--scale_v_pred_loss_like_noise_pred",
        action="store_true",
        help="weigh a v-prediction loss by timestep as a noise loss is (default: off)",
    )
    group.add_argument(
        "--v_pred_like_loss",
        type=float,
        default=None,
        metavar="WEIGHT",
        help="add this much of a v-prediction-like loss to a noise loss (default: off)",
    )
    group.add_argument(
        "--debiased_estimation_loss", action="store_true", help="weigh the loss by 1/sqrt(SNR), which favours noisy images (default: off)"
    )
