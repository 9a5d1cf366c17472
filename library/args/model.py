"""Options that name the base model: the checkpoint, its VAE, its tokenizers and what it predicts."""

from argparse import ArgumentParser


def add_model_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--pretrained_model_name_or_path",
        type=str,
        default=None,
        metavar="MODEL",
        help="model to train on: a .safetensors or .ckpt file, a diffusers folder, or a Hugging Face id (needed)",
    )
    group.add_argument("--v2", action="store_true", help="the model is Stable Diffusion 2.x (default: 1.x)")
    group.add_argument(
        "--v_parameterization",
        action="store_true",
        help="the model predicts velocity instead of noise, as SD 2.x 768 does (default: noise)",
    )
    group.add_argument(
        "--vae",
        type=str,
        default=None,
        metavar="PATH",
        help="file or folder of a VAE to use in place of the model's own (default: its own)",
    )
    group.add_argument(
        "--no_half_vae",
        action="store_true",
        help="run the VAE in 32 bit under mixed precision; the SDXL 1.0 VAE needs it in fp16 (default: off)",
    )
    group.add_argument(
        "--tokenizer_cache_dir",
        type=str,
        default=None,
        metavar="FOLDER",
        help="folder that holds the tokenizers, for machines without network (default: the ones shipped)",
    )
