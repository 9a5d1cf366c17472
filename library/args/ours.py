"""Options of this suite that kohya's sd-scripts of February 2026 do not have."""

from argparse import ArgumentParser, _ArgumentGroup

TITLE = "new in this suite"


def add_our_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(TITLE)
    group.add_argument(
        "--strict_compat",
        action="store_true",
        help="reproduce sd-scripts number for number, its known defects included (default: off, they are mended)",
    )
    add_data_arguments(group)
    add_training_arguments(group)
    add_memory_arguments(group)


def add_data_arguments(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--skip_image_resolution",
        type=str,
        default=None,
        metavar="SIZE",
        help="leave out images not larger than this, '512' or 'width,height' (default: use all)",
    )
    group.add_argument(
        "--skip_bad_images",
        action="store_true",
        help="leave out images that cannot be read, and say so (default: off, they stop the run before it starts)",
    )
    group.add_argument(
        "--no_image_index",
        action="store_true",
        help="do not keep the sizes and captions of folders with 2,000 images or more in .image_index.json (default: off)",
    )
    group.add_argument(
        "--text_encoder_cache_variants",
        type=int,
        default=None,
        metavar="N",
        help="encode N shuffled variants of each caption and the empty one before training, and train on one of them at random; "
        "needs --network_train_unet_only, 8 is a fair number (default: captions that change are encoded at each step)",
    )


def add_training_arguments(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--nan_guard",
        type=str,
        default=None,
        choices=("off", "skip", "stop", "rollback"),
        help="leave updates with NaN or infinite values out; after --nan_guard_patience of them in a row, 'skip' says so, 'stop' ends"
        " the run with exit status 1, 'rollback' goes back to the last good weights at half the learning rate"
        " (default: skip; off with --strict_compat)",
    )
    group.add_argument(
        "--nan_guard_patience",
        type=int,
        default=5,
        metavar="N",
        help="bad updates in a row until --nan_guard acts (default: 5)",
    )
    group.add_argument(
        "--lr_scheduler_preview",
        type=str,
        default=None,
        metavar="FILE.png",
        help="draw the learning rate over the steps of this command line as a picture, and end (default: train)",
    )


def add_memory_arguments(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--blocks_to_swap",
        type=int,
        default=None,
        metavar="N",
        help="keep the frozen weights of the N largest U-Net blocks in main memory and bring them to the GPU only while they are used: "
        "less GPU memory, slower (default: none)",
    )
    group.add_argument(
        "--vae_slicing",
        action="store_true",
        help="the VAE works on one image of a batch at a time: less GPU memory, same latents (default: off)",
    )
    group.add_argument(
        "--vae_tiling",
        action="store_true",
        help="the VAE works on large images in overlapping tiles: much less GPU memory, latents differ a little (default: off)",
    )
    group.add_argument(
        "--attention",
        type=str,
        default=None,
        choices=("auto", "flash", "cudnn", "efficient", "math", "xformers"),
        help="attention kernel of the U-Net on CUDA: one by name, or 'auto', which times them once for each shape and takes the fastest;"
        " name one to get the same numbers at each run (default: what --xformers says, else PyTorch's own choice)",
    )
    group.add_argument(
        "--cuda_graph",
        type=str,
        default="off",
        choices=("auto", "off"),
        help="'auto': record the U-Net's and the text encoders' part of a step once for each bucket shape and replay it in one go, faster"
        " where a step is short (SD 1.x, batch 1); what cannot be recorded runs as usual (default: off)",
    )
