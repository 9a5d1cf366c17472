"""The ss_* metadata of a saved network: how it was trained, as text, under the names that galleries and tools read.

Values are Python's text of the value (`None`, `True`, `(512, 512)`) or JSON where several belong together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.saving.commit import program_commit

OPTIONS = {
    "ss_output_name": "output_name",
    "ss_unet_lr": "unet_lr",
    "ss_gradient_checkpointing": "gradient_checkpointing",
    "ss_gradient_accumulation_steps": "gradient_accumulation_steps",
    "ss_lr_warmup_steps": "lr_warmup_steps",
    "ss_network_module": "network_module",
    "ss_network_dim": "network_dim",
    "ss_network_alpha": "network_alpha",
    "ss_network_dropout": "network_dropout",
    "ss_mixed_precision": "mixed_precision",
    "ss_full_fp16": "full_fp16",
    "ss_v2": "v2",
    "ss_clip_skip": "clip_skip",
    "ss_max_token_length": "max_token_length",
    "ss_cache_latents": "cache_latents",
    "ss_lowram": "lowram",
    "ss_noise_offset": "noise_offset",
    "ss_multires_noise_iterations": "multires_noise_iterations",
    "ss_multires_noise_discount": "multires_noise_discount",
    "ss_adaptive_noise_scale": "adaptive_noise_scale",
    "ss_zero_terminal_snr": "zero_terminal_snr",
    "ss_training_comment": "training_comment",
    "ss_max_grad_norm": "max_grad_norm",
    "ss_caption_dropout_rate": "caption_dropout_rate",
    "ss_caption_dropout_every_n_epochs": "caption_dropout_every_n_epochs",
    "ss_caption_tag_dropout_rate": "caption_tag_dropout_rate",
    "ss_face_crop_aug_range": "face_crop_aug_range",
    "ss_prior_loss_weight": "prior_loss_weight",
    "ss_min_snr_gamma": "min_snr_gamma",
    "ss_scale_weight_norms": "scale_weight_norms",
    "ss_ip_noise_gamma": "ip_noise_gamma",
    "ss_debiased_estimation": "debiased_estimation_loss",
    "ss_noise_offset_random_strength": "noise_offset_random_strength",
    "ss_ip_noise_gamma_random_strength": "ip_noise_gamma_random_strength",
    "ss_loss_type": "loss_type",
    "ss_huber_schedule": "huber_schedule",
    "ss_huber_scale": "huber_scale",
    "ss_huber_c": "huber_c",
    "ss_fp8_base": "fp8_base",
    "ss_fp8_base_unet": "fp8_base_unet",
    "ss_validation_seed": "validation_seed",
    "ss_validation_split": "validation_split",
    "ss_max_validation_steps": "max_validation_steps",
    "ss_validate_every_n_epochs": "validate_every_n_epochs",
    "ss_validate_every_n_steps": "validate_every_n_steps",
    "ss_resize_interpolation": "resize_interpolation",
}
"""Key -> option whose value it holds as it was given."""

FOLDER_METHOD_OPTIONS = {
    "ss_color_aug": "color_aug",
    "ss_flip_aug": "flip_aug",
    "ss_random_crop": "random_crop",
    "ss_shuffle_caption": "shuffle_caption",
    "ss_keep_tokens": "keep_tokens",
}
"""More of the same, written only without a dataset config: there each subset has its own."""

MINIMAL_KEYS = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
)
"""What --no_metadata leaves, so that the file can still be used."""


@dataclass(frozen=True)
class RunFacts:
    """What the command line alone does not say.

    started_at: seconds since 1970. Image counts are with repeats, those of validation without. num_batches_per_epoch: of all processes.
    optimizer: "module.Class(arguments)". learning_rate and lr_scheduler: in force, so None and "adafactor:<lr>" under AdaFactor's
    relative steps. network_args: as the network got them, None if none were given on the command line.
    """

    session_id: int
    started_at: float
    seed: int
    base_model_version: str
    num_train_images: int
    num_reg_images: int
    num_validation_images: int
    num_batches_per_epoch: int
    num_epochs: int
    max_train_steps: int
    optimizer: str
    learning_rate: float | None
    lr_scheduler: str
    network_args: Mapping[str, Any] | None = None


def option_metadata(options: Mapping[str, Any]) -> dict[str, str]:
    """The keys that repeat an option. Of --text_encoder_lr, a list, the first value."""
    found = {key: str(options[option]) for key, option in OPTIONS.items()}
    text_encoder_lr = options["text_encoder_lr"]
    if isinstance(text_encoder_lr, Sequence):
        text_encoder_lr = text_encoder_lr[0] if text_encoder_lr else None
    found["ss_text_encoder_lr"] = str(text_encoder_lr)
    return found


def run_metadata(facts: RunFacts) -> dict[str, str]:
    """The keys that only a prepared run can fill; they win over those of `option_metadata`."""
    found = {
        "ss_session_id": facts.session_id,
        "ss_training_started_at": facts.started_at,
        "ss_seed": facts.seed,
        "ss_base_model_version": facts.base_model_version,
        "ss_num_train_images": facts.num_train_images,
        "ss_num_reg_images": facts.num_reg_images,
        "ss_num_validation_images": facts.num_validation_images,
        "ss_num_batches_per_epoch": facts.num_batches_per_epoch,
        "ss_num_epochs": facts.num_epochs,
        "ss_max_train_steps": facts.max_train_steps,
        "ss_optimizer": facts.optimizer,
        "ss_learning_rate": facts.learning_rate,
        "ss_lr_scheduler": facts.lr_scheduler,
        "ss_sd_scripts_commit_hash": program_commit() or "(unknown)",
    }
    if facts.learning_rate is None:
        found |= {"ss_unet_lr": None, "ss_text_encoder_lr": None}
    if facts.network_args is not None:
        found["ss_network_args"] = json.dumps(dict(facts.network_args))
    return {key: str(value) for key, value in found.items()}


def model_metadata(kind: str, name_or_path: str, hashes: tuple[str, str] | None) -> dict[str, str]:
    """kind: "sd_model" or "vae". hashes: legacy and full, None if `name_or_path` is a name on a hub and no file or folder here."""
    if hashes is None:
        return {f"ss_{kind}_name": name_or_path}
    legacy, full = hashes
    return {f"ss_{kind}_hash": legacy, f"ss_new_{kind}_hash": full, f"ss_{kind}_name": base_name(name_or_path)}


def dataset_metadata(datasets: Sequence[Any], *, from_config: bool, options: Mapping[str, Any], processes: int = 1) -> dict[str, str]:
    """What was trained on. datasets: objects with settings, subsets, bucket_info, num_train_images and num_reg_images."""
    if from_config:
        return {
            "ss_datasets": json.dumps([_describe_dataset(dataset) for dataset in datasets]),
            "ss_tag_frequency": json.dumps(_first_wins(tag_frequency(dataset.subsets) for dataset in datasets)),
            "ss_dataset_dirs": json.dumps(_folders(subset for dataset in datasets for subset in dataset.subsets if not subset.is_reg)),
        }
    (dataset,) = datasets
    settings = dataset.settings
    batch_size, accumulation = settings.batch_size, options["gradient_accumulation_steps"]
    found = {key: options[option] for key, option in FOLDER_METHOD_OPTIONS.items()} | {
        "ss_batch_size_per_device": batch_size,
        "ss_total_batch_size": batch_size * processes * accumulation,
        "ss_resolution": tuple(settings.resolution),
        "ss_enable_bucket": settings.enable_bucket,
        "ss_bucket_no_upscale": settings.bucket_no_upscale,
        "ss_min_bucket_reso": _bucket_limits(settings)[0],
        "ss_max_bucket_reso": _bucket_limits(settings)[1],
        "ss_dataset_dirs": json.dumps(_folders(subset for subset in dataset.subsets if not subset.is_reg)),
        "ss_reg_dataset_dirs": json.dumps(_folders(subset for subset in dataset.subsets if subset.is_reg)),
        "ss_tag_frequency": json.dumps(tag_frequency(dataset.subsets)),
        "ss_bucket_info": json.dumps(dataset.bucket_info),
    }
    return {key: str(value) for key, value in found.items()}


def minimal_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The part of it that --no_metadata keeps."""
    return {key: metadata[key] for key in MINIMAL_KEYS if key in metadata}


def save_metadata(
    metadata: Mapping[str, str], modelspec: Mapping[str, str], *, global_step: int, epoch: int, finished_at: float, minimal: bool = False
) -> dict[str, str]:
    """All keys of one save, but for the sshs_* hashes that go with the tensors. minimal: --no_metadata, which keeps modelspec.*"""
    if minimal:
        return minimal_metadata(metadata) | dict(modelspec)
    moment = {"ss_training_finished_at": str(finished_at), "ss_steps": str(global_step), "ss_epoch": str(epoch)}
    return dict(metadata) | moment | dict(modelspec)


def tag_frequency(subsets: Sequence[Any]) -> dict[str, dict[str, int]]:
    """Folder or metadata file -> tag -> number of images; subsets of the same name are counted together."""
    found: dict[str, dict[str, int]] = {}
    for subset in subsets:
        tags = found.setdefault(_source_name(subset), {})
        for tag, count in subset.tag_frequency.items():
            tags[tag] = tags.get(tag, 0) + count
    return found


def base_name(path: str) -> str:
    """The last part of a path, of a folder written with a trailing slash too."""
    return Path(path).name


def _source_name(subset: Any) -> str:
    return base_name(subset.metadata_file or subset.image_dir)


def _folders(subsets) -> dict[str, dict[str, int]]:
    """Name -> repeats and images; a name that comes again gets " (2)", " (3)" and so on."""
    found: dict[str, dict[str, int]] = {}
    for subset in subsets:
        name = original = _source_name(subset)
        number = 2
        while name in found:
            name = f"{original} ({number})"
            number += 1
        found[name] = {"n_repeats": subset.num_repeats, "img_count": subset.img_count}
    return found


def _first_wins(frequencies) -> dict[str, dict[str, int]]:
    merged: dict[str, dict[str, int]] = {}
    for frequency in frequencies:
        for name, tags in frequency.items():
            merged.setdefault(name, tags)
    return merged


def _bucket_limits(settings: Any) -> tuple[int | None, int | None]:
    """Smallest and largest bucket side as used, in whole bucket steps; None without buckets."""
    if not settings.enable_bucket:
        return None, None
    steps = settings.bucket_reso_steps
    return settings.min_bucket_reso // steps * steps, -(-settings.max_bucket_reso // steps) * steps


def _describe_dataset(dataset: Any) -> dict[str, Any]:
    settings = dataset.settings
    return {
        "is_dreambooth": all(subset.metadata_file is None for subset in dataset.subsets),
        "batch_size_per_device": settings.batch_size,
        "num_train_images": dataset.num_train_images,
        "num_reg_images": dataset.num_reg_images,
        "resolution": list(settings.resolution),
        "enable_bucket": settings.enable_bucket,
        "min_bucket_reso": _bucket_limits(settings)[0],
        "max_bucket_reso": _bucket_limits(settings)[1],
        "tag_frequency": tag_frequency(dataset.subsets),
        "bucket_info": dataset.bucket_info,
        "resize_interpolation": settings.resize_interpolation,
        "subsets": [_describe_subset(subset) for subset in dataset.subsets],
    }


def _describe_subset(subset: Any) -> dict[str, Any]:
    copied = (
        "img_count", "num_repeats", "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens", "keep_tokens_separator",
        "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix", "resize_interpolation",
    )  # fmt: skip
    described = {name: getattr(subset, name) for name in copied}
    if subset.image_dir:
        described["image_dir"] = base_name(subset.image_dir)
    if subset.metadata_file is None:
        return described | {"class_tokens": subset.class_tokens, "is_reg": subset.is_reg}
    return described | {"metadata_file": base_name(subset.metadata_file)}
