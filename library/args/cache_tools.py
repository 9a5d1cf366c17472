"""Options of the programs that fill caches before training: those of the training scripts, and a few of their own.

They take a training run's command line or config file as it is; what has nothing to do with caching is read and not used.
"""

from argparse import ArgumentParser, Namespace

from library.args.checks import check
from library.args.errors import BadArguments, mistakes_end_the_program
from library.args.normalise import normalise
from library.args.parser import LORA_GROUPS, TrainingParser, typed_values
from library.args.reading import merged_args
from library.args.sdxl import add_sdxl_arguments

OTHER_FAMILIES = (
    ("weighting_scheme", str, "uniform", ["sigma_sqrt", "logit_normal", "mode", "cosmap", "none", "uniform"]),
    ("logit_mean", float, 0.0, None),
    ("logit_std", float, 1.0, None),
    ("mode_scale", float, 1.29, None),
    ("clip_l", str, None, None),
    ("t5xxl", str, None, None),
    ("ae", str, None, None),
    ("t5xxl_dtype", str, None, None),
    ("controlnet_model_name_or_path", str, None, None),
    ("t5xxl_max_token_length", int, None, None),
    ("guidance_scale", float, 3.5, None),
    ("timestep_sampling", None, "sigma", ["sigma", "uniform", "sigmoid", "shift", "flux_shift"]),
    ("sigmoid_scale", float, 1.0, None),
    ("model_prediction_type", None, "sigma_scaled", ["raw", "additive", "sigma_scaled"]),
    ("discrete_flow_shift", float, 3.0, None),
    ("model_type", str, "flux", ["flux", "chroma"]),
)
"""Option, type, default, choices: for model families that this suite does not train."""
UNUSED = {"network_module": "networks.lora", "output_dir": "."}
"""What a training script needs and a cache does not."""
TEXT_CACHE = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
"""Options that only scripts for SDXL have."""


def cache_parser(name: str, description: str) -> ArgumentParser:
    """The parser of tools/<name>.py."""
    parser = TrainingParser(prog=f"{name}.py", usage="%(prog)s [options]", description=description)
    for add_arguments in (*LORA_GROUPS, add_sdxl_arguments):
        add_arguments(parser)
    group = parser.add_argument_group("which model")
    group.add_argument("--sdxl", action="store_true", help="the model is SDXL (default: SD1, or SD2 with --v2)")
    group.add_argument("--flux", action="store_true", help="the model is FLUX, which is refused (default: off)")
    group.add_argument("--skip_existing", action="store_true", help="trust cache files that exist without reading them (default: checked)")
    group.add_argument(
        "--text_encoder_batch_size", type=int, default=None, metavar="N", help="captions encoded at once (default: --train_batch_size)"
    )
    group.add_argument("--apply_t5_attn_mask", action="store_true", help="for FLUX and SD3: not used (default: off)")
    for option, kind, default, choices in OTHER_FAMILIES:
        group.add_argument(
            f"--{option}", type=kind, default=default, choices=choices, help=f"for FLUX and SD3: not used (default: {default})"
        )
    return parser


def read_cache_args(parser: ArgumentParser, *, text: bool = False) -> tuple[Namespace, bool]:
    """The options, checked as the training script for this model would, and whether the model is SDXL.

    text: the cache is that of the text encoders, as frozen as --network_train_unet_only leaves them.
    Ends the program with status 1 and `error: ...` for options that cannot work.
    """
    typed = typed_values(parser)
    with mistakes_end_the_program():
        args = merged_args(parser, typed)
        if args.flux:
            raise BadArguments("--flux: only Stable Diffusion 1, 2 and XL models are known here")
        for option, value in UNUSED.items():
            setattr(args, option, getattr(args, option) or value)
        if text:
            _ask_for_text_cache(args)
        for option in () if args.sdxl else TEXT_CACHE:
            delattr(args, option)
        script = "sdxl_train_network" if args.sdxl else "train_network"
        normalise(args, script, typed)
        check(args, script)
    return args, args.sdxl


def _ask_for_text_cache(args: Namespace) -> None:
    if not args.sdxl:
        raise BadArguments("only SDXL keeps text encoder outputs in files: add --sdxl; SD1 and SD2 cache them in memory by themselves")
    args.network_train_unet_only = True
    for option in TEXT_CACHE:
        setattr(args, option, True)
    args.train_batch_size = args.text_encoder_batch_size or args.train_batch_size
