"""Options for the images and captions to train on. Sizes are in pixels, width first.

Each has a key of the same meaning in a --dataset_config file, where it can be set per data set or per folder.
"""

from argparse import ArgumentParser
from pathlib import Path

INTERPOLATIONS = ["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"]


def add_dataset_arguments(parser: ArgumentParser) -> None:
    _add_sources(parser.add_argument_group("images: where they are"))
    _add_captions(parser.add_argument_group("captions"))
    _add_caption_dropout(parser.add_argument_group("caption dropout and warm-up"))
    _add_sizes(parser.add_argument_group("image sizes and buckets"))
    _add_augmentation(parser.add_argument_group("augmentation and masks"))


def _add_sources(group) -> None:
    group.add_argument(
        "--train_data_dir",
        type=str,
        default=None,
        metavar="FOLDER",
        help="folder of N_name folders of images, N being the repeats; with --in_json the image folder itself",
    )
    group.add_argument(
        "--reg_data_dir", type=str, default=None, metavar="FOLDER", help="regularisation images in the same layout (default: none)"
    )
    group.add_argument(
        "--in_json",
        type=str,
        default=None,
        metavar="FILE",
        help="JSON file of captions and tags per image, in place of caption files (default: none)",
    )
    group.add_argument(
        "--dataset_config",
        type=Path,
        default=None,
        metavar="FILE",
        help="TOML or JSON description of the data sets; replaces the folder options above (default: none)",
    )
    group.add_argument(
        "--dataset_class",
        type=str,
        default=None,
        metavar="MODULE.CLASS",
        help="your own data set class in place of all the above (default: none)",
    )
    group.add_argument(
        "--dataset_repeats", type=int, default=1, metavar="N", help="times each image of --in_json is used per epoch (default: 1)"
    )
    group.add_argument(
        "--cache_info",
        action="store_true",
        help="keep captions and image sizes in a JSON file in the image folder for faster starts (default: off)",
    )
    group.add_argument(
        "--debug_dataset", action="store_true", help="show what would be trained on, image by image, and stop (default: off)"
    )
    group.add_argument(
        "--prior_loss_weight",
        type=float,
        default=1.0,
        metavar="WEIGHT",
        help="weight of regularisation images in the loss; 1 counts them as much as others (default: 1.0)",
    )


def _add_captions(group) -> None:
    group.add_argument(
        "--caption_extension",
        type=str,
        default=".caption",
        metavar="ENDING",
        help="file name ending of the captions; .txt is usual (default: .caption)",
    )
    group.add_argument(
        "--caption_extention",
        type=str,
        default=None,
        metavar="ENDING",
        help="old misspelling of --caption_extension, and stronger than it (default: none)",
    )
    group.add_argument(
        "--caption_separator", type=str, default=",", metavar="TEXT", help="what stands between two tags of a caption (default: ,)"
    )
    group.add_argument("--shuffle_caption", action="store_true", help="put the tags in another order at every step (default: off)")
    group.add_argument(
        "--keep_tokens",
        type=int,
        default=0,
        metavar="N",
        help="first N tags that are never shuffled or dropped, such as the trigger word (default: 0)",
    )
    group.add_argument(
        "--keep_tokens_separator",
        type=str,
        default="",
        metavar="TEXT",
        help="text in the caption that ends the part to keep; |||  is usual (default: off)",
    )
    group.add_argument(
        "--secondary_separator",
        type=str,
        default=None,
        metavar="TEXT",
        help="joins tags that must stay together; becomes the caption separator in the end (default: off)",
    )
    group.add_argument(
        "--enable_wildcard", action="store_true", help="take one of {a|b|c} at random, and one line of captions with several (default: off)"
    )
    group.add_argument("--caption_prefix", type=str, default=None, metavar="TEXT", help="text put before each caption (default: none)")
    group.add_argument("--caption_suffix", type=str, default=None, metavar="TEXT", help="text put after each caption (default: none)")
    group.add_argument(
        "--weighted_captions", action="store_true", help="read (tag:1.3), (tag) and [tag] in captions as weights (default: plain text)"
    )


def _add_caption_dropout(group) -> None:
    group.add_argument(
        "--caption_dropout_rate",
        type=float,
        default=0.0,
        metavar="RATE",
        help="chance, 0 to 1, that an image is shown without its caption; 0.05 to 0.1 is usual (default: 0)",
    )
    group.add_argument(
        "--caption_dropout_every_n_epochs",
        type=int,
        default=0,
        metavar="N",
        help="leave all captions out in each Nth epoch (default: 0, never)",
    )
    group.add_argument(
        "--caption_tag_dropout_rate",
        type=float,
        default=0.0,
        metavar="RATE",
        help="chance, 0 to 1, that each single tag is left out (default: 0)",
    )
    group.add_argument(
        "--token_warmup_min", type=int, default=1, metavar="N", help="number of tags used at the first step of the tag warm-up (default: 1)"
    )
    group.add_argument(
        "--token_warmup_step",
        type=float,
        default=0,
        metavar="STEP",
        help="step by which all tags are used; below 1 a share of all steps (default: 0, no tag warm-up)",
    )


def _add_sizes(group) -> None:
    group.add_argument(
        "--resolution",
        type=str,
        default=None,
        metavar="SIZE",
        help="training size, '512' or 'width,height'; 512 for SD 1.x, 1024 for SDXL (needed without --dataset_config)",
    )
    group.add_argument(
        "--enable_bucket",
        action="store_true",
        help="train at several aspect ratios of about the same area instead of cropping (default: off)",
    )
    group.add_argument("--min_bucket_reso", type=int, default=256, metavar="PIXELS", help="shortest side of a bucket (default: 256)")
    group.add_argument("--max_bucket_reso", type=int, default=1024, metavar="PIXELS", help="longest side of a bucket (default: 1024)")
    group.add_argument(
        "--bucket_reso_steps",
        type=int,
        default=64,
        metavar="PIXELS",
        help="bucket sides are multiples of this: a multiple of 64 for SD, of 32 for SDXL (default: 64)",
    )
    group.add_argument("--bucket_no_upscale", action="store_true", help="never enlarge an image to fill a bucket (default: enlarged)")
    group.add_argument(
        "--resize_interpolation",
        type=str,
        default=None,
        choices=INTERPOLATIONS,
        help="how images are resized (default: area to shrink, lanczos to enlarge)",
    )


def _add_augmentation(group) -> None:
    group.add_argument("--flip_aug", action="store_true", help="mirror half of the images at random (default: off)")
    group.add_argument("--color_aug", action="store_true", help="vary hue and gamma a little; not with cached latents (default: off)")
    group.add_argument(
        "--random_crop", action="store_true", help="crop at a random place instead of the centre; not with cached latents (default: off)"
    )
    group.add_argument(
        "--face_crop_aug_range",
        type=str,
        default=None,
        metavar="LOW,HIGH",
        help="crop around the face named in the file name, enlarged by a factor in this range, '2.0,4.0' (default: off)",
    )
    group.add_argument("--alpha_mask", action="store_true", help="let transparent parts of images count less in the loss (default: off)")
    group.add_argument(
        "--masked_loss", action="store_true", help="weigh the loss by mask images found in conditioning_data_dir (default: off)"
    )
    group.add_argument(
        "--conditioning_data_dir",
        type=str,
        default=None,
        metavar="FOLDER",
        help="folder of mask images with the names of the training images (default: none)",
    )
