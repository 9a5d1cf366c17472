"""Files and folders that must be named, and must be there."""

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

LONGEST_NAME = 200
"""Bytes of an --output_name; the numbers and the ending of file names come on top, and 255 is what file systems take."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def model_problems(args: Namespace, script: str) -> Iterator[str]:
    model = args.pretrained_model_name_or_path
    if model is None and args.debug_dataset:
        return
    if model is None:
        yield (
            "--pretrained_model_name_or_path is missing: name the model to train on, "
            "such as --pretrained_model_name_or_path model.safetensors"
        )
    elif _is_missing_path(model):
        yield f"--pretrained_model_name_or_path {model}: there is no such file or folder (looked for from {Path.cwd()})"
    if args.vae is not None and _is_missing_path(args.vae):
        yield f"--vae {args.vae}: there is no such file or folder; leave --vae out to use the model's own"
    if args.tokenizer_cache_dir is not None and Path(args.tokenizer_cache_dir).is_file():
        yield f"--tokenizer_cache_dir {args.tokenizer_cache_dir} is a file: give a folder"


def network_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.network_module is None and not args.debug_dataset:
        yield "--network_module is missing: name the kind of network to train, such as --network_module networks.lora"
    if args.network_weights is not None and not Path(args.network_weights).is_file():
        yield f"--network_weights {args.network_weights}: there is no such file; leave it out to start with a new network"
    if args.dim_from_weights and args.network_weights is None:
        yield "--dim_from_weights takes the ranks from a file: name it with --network_weights, or use --network_dim"
    for path in args.base_weights or []:
        if not Path(path).is_file():
            yield f"--base_weights {path}: there is no such file"
    surplus = len(args.base_weights_multiplier or []) - len(args.base_weights or [])
    if surplus > 0:
        yield f"--base_weights_multiplier has {surplus} more value(s) than --base_weights has files: give one for each file"


def output_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.output_dir is None and not args.debug_dataset:
        yield "--output_dir is missing: name the folder for the trained files, such as --output_dir output"
    for name in ("output_dir", "logging_dir"):
        folder = getattr(args, name)
        problem = folder is not None and _why_not_made(Path(folder))
        if problem:
            yield f"--{name} {folder} {problem}"
    if args.output_name is not None:
        yield from _name_problems(args.output_name)
    if args.lr_scheduler_preview is not None and not args.lr_scheduler_preview.lower().endswith((".png", ".jpg", ".svg", ".pdf")):
        yield f"--lr_scheduler_preview {args.lr_scheduler_preview}: the name must end in .png, .jpg, .svg or .pdf"
    if args.log_with in ("tensorboard", "all") and args.logging_dir is None:
        yield f"--log_with {args.log_with} needs a folder for its records: add --logging_dir logs"
    if args.log_tracker_config is not None and not Path(args.log_tracker_config).is_file():
        yield f"--log_tracker_config {args.log_tracker_config}: there is no such file"


def _why_not_made(folder: Path) -> str | None:
    """What stands in the way of writing into a folder that is made when it is needed."""
    if folder.is_file():
        return "is a file: give a folder"
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path())
    if there.is_file():
        return f"lies in {there}, which is a file: give a folder"
    if not os.access(there, os.W_OK):
        return f"cannot be written: there is no permission to write in {there}"
    return None


def _name_problems(name: str) -> Iterator[str]:
    if name in (".", "..") or "/" in name or "\\" in name:
        yield f"--output_name {name!r} holds a folder: put folders into --output_dir"
    elif "\0" in name or len(os.fsencode(name)) > LONGEST_NAME:
        yield f"--output_name {name[:20]!r}... cannot be a file name: give up to {LONGEST_NAME} plain characters"


def dataset_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.dataset_class is not None:
        return
    if args.dataset_config is not None:
        if not Path(args.dataset_config).is_file():
            yield f"--dataset_config {args.dataset_config}: there is no such file (looked for from {Path.cwd()})"
        return
    if args.train_data_dir is None and args.in_json is None:
        yield (
            "no images are named: give --train_data_dir, a folder that holds folders such as 10_name, "
            "or --dataset_config, a file that describes the data"
        )
    elif args.resolution is None:
        yield "--resolution is missing: give the training size in pixels, 512 for SD 1.x, 1024,1024 for SDXL"
    for name in ("train_data_dir", "reg_data_dir", "conditioning_data_dir"):
        folder = getattr(args, name)
        if folder is not None and not Path(folder).is_dir():
            yield f"--{name} {folder}: there is no such folder (looked for from {Path.cwd()})"
    if args.in_json is not None and not Path(args.in_json).is_file():
        yield f"--in_json {args.in_json}: there is no such file"


def resume_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.resume in (None, "newest") or args.resume_from_huggingface or Path(args.resume).is_dir():
        return
    yield f"--resume {args.resume}: there is no such folder; it takes a folder whose name ends in -state, or the word newest"


def hub_problems(args: Namespace, script: str) -> Iterator[str]:
    if args.huggingface_repo_id is not None and not HUB_ID.fullmatch(args.huggingface_repo_id):
        yield f"--huggingface_repo_id {args.huggingface_repo_id}: give OWNER/NAME, as the address of the repository ends"
    if ".." in (args.huggingface_path_in_repo or "").replace("\\", "/").split("/"):
        yield f"--huggingface_path_in_repo {args.huggingface_path_in_repo} leads out of the repository: give a folder inside it"
    if args.huggingface_repo_id is None:
        for name in ("async_upload", "save_state_to_huggingface"):
            if getattr(args, name):
                yield f"--{name} needs the repository to upload to: add --huggingface_repo_id OWNER/NAME, or leave it out"
    if args.huggingface_repo_type not in (None, "model", "dataset", "space"):
        yield f"--huggingface_repo_type {args.huggingface_repo_type}: give model, dataset or space"


def preview_problems(args: Namespace, script: str) -> Iterator[str]:
    if not (args.sample_every_n_steps or args.sample_every_n_epochs or args.sample_at_first):
        return
    if args.sample_prompts is None:
        yield "previews are switched on but have no prompts: add --sample_prompts FILE, or leave --sample_every_n_* out"
    elif not Path(args.sample_prompts).is_file():
        yield f"--sample_prompts {args.sample_prompts}: there is no such file"


def _is_missing_path(name: str) -> bool:
    """Whether `name` can only be a local path, and none that exists; otherwise it may be a Hugging Face id."""
    looks_local = name.endswith(WEIGHT_FILES) or name.startswith((".", "~")) or HUB_ID.fullmatch(name) is None
    return looks_local and not Path(name).exists()
