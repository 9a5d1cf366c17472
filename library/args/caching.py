"""Options for encoding images once, before training, instead of at every step."""

from argparse import ArgumentParser


def add_caching_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("caching")
    group.add_argument(
        "--cache_latents",
        action="store_true",
        help="encode all images first and keep the result in memory: faster, and the VAE leaves the GPU (default: off)",
    )
    group.add_argument(
        "--cache_latents_to_disk",
        action="store_true",
        help="keep it as .npz files beside the images for later runs; means --cache_latents too (default: off)",
    )
    group.add_argument(
        "--skip_cache_check",
        action="store_true",
        help="trust cache files that exist without reading them: quicker start (default: checked)",
    )
    group.add_argument(
        "--vae_batch_size",
        type=int,
        default=1,
        metavar="N",
        help="images encoded at once; more needs more GPU memory (default: 1, which lets --cache_latents take as many as fit the GPU)",
    )
