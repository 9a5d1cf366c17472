"""A model from one file in the original layout to a diffusers folder, and back."""

import json
import logging
import os
from pathlib import Path

import torch

from library.diffusion.schedules import BETA_END, BETA_START
from library.files import written_whole
from library.models.diffusers_folder import local_folder, quiet_libraries
from library.models.family import Family, Models
from library.models.kinds import SD1, SD2, SDXL, kind_of_tensors
from library.models.model_files import is_single_file
from library.models.original_layout import open_model
from library.models.streams import Stream
from library.saving.streaming import write_stream

logger = logging.getLogger(__name__)

DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def convert(
    source: str, target: str, *, precision: str | None = None, wants_v1: bool = False, wants_v2: bool = False,
    linear_projection: bool = False, metadata: str | None = None, variant: str | None = None, reference_model: str | None = None,
    use_safetensors: bool = True, epoch: int = 0, global_step: int = 0,
) -> None:  # fmt: skip
    """Writes `target`: one file if its name has an ending, else a folder. source: a file, a diffusers folder or a hub id.

    precision: a key of DTYPES, None for that of the source. metadata: JSON of a table. reference_model: a folder or hub id
    whose scheduler and tokenizer the new folder gets. Raises ValueError for what is no Stable Diffusion model, or another than
    wants_v1 and wants_v2 say.
    """
    dtype = None if precision is None else DTYPES[precision]
    model = open_model(source if is_single_file(source) else local_folder(source, variant), variant)
    kind = kind_of_tensors(model.tensors)
    if kind not in (SD1, SD2, SDXL):
        raise ValueError(f"{source} is {kind}, not a whole Stable Diffusion 1, 2 or XL model")
    if (wants_v1 and kind != SD1) or (wants_v2 and kind != SD2):
        raise ValueError(f"{source} is {kind}: leave out {'--v1' if wants_v1 else '--v2'}")
    if Path(target).suffix:
        _to_file(model, target, dtype, metadata, epoch, global_step)
    else:
        _to_folder(model, target, kind, dtype, linear_projection, reference_model, use_safetensors)
    logger.info("saved %s", target)


def _to_file(model: Stream, target: str, dtype: torch.dtype | None, metadata: str | None, epoch: int, global_step: int) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in model.tensors.items()}
    try:
        told = {key: str(value) for key, value in json.loads(metadata).items()} if metadata else {}
    except (ValueError, AttributeError):
        raise ValueError(f'--metadata {metadata!r}: give a JSON table such as \'{{"title": "mine"}}\'') from None
    if Path(target).suffix.lower() == ".safetensors":
        write_stream(target, tensors, model.metadata | told)
        return
    with written_whole(target) as temporary:
        content = {name: tensor.read().clone() for name, tensor in tensors.items()}
        torch.save({"epoch": epoch, "global_step": global_step, "state_dict": content}, temporary)


def _to_folder(model: Stream, target: str, kind: str, dtype: torch.dtype | None, linear: bool, reference: str | None, safe: bool) -> None:
    from library.models.sd import SD
    from library.models.sdxl import SDXL as XL

    predicts_velocity = model.metadata.get("modelspec.prediction_type") == "v"
    if kind == SD2 and not predicts_velocity and reference is None:
        logger.warning("the folder will say that the model predicts noise; for one of velocity name its like with --reference_model")
    family = XL(v_parameterization=predicts_velocity) if kind == SDXL else SD(v2=kind == SD2, v_parameterization=predicts_velocity)
    if dtype is None:
        stored = {tensor.dtype for tensor in model.tensors.values() if tensor.dtype.is_floating_point}
        dtype = stored.pop() if len(stored) == 1 else torch.float32
    models = family.load(model.path, dtype=dtype)
    if linear and kind == SD2:
        flatten_projections(models.unet)
    pipeline = _pipeline(kind, family, models)
    if reference is not None:
        _take_parts(pipeline, reference)
    pipeline.save_pretrained(target, safe_serialization=safe)


def _pipeline(kind: str, family: Family, models: Models):
    """The diffusers pipeline that holds these models, with the scheduler of their training."""
    with quiet_libraries():  # the import alone speaks of packages that it does not need
        from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    scheduler = DDIMScheduler(
        beta_start=BETA_START, beta_end=BETA_END, beta_schedule="scaled_linear", prediction_type=family.prediction_type,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    parts = {"vae": models.vae, "unet": models.unet, "scheduler": scheduler, "text_encoder": models.text_encoders[0]}
    if kind == SDXL:
        first, second = (tokenizer.hf_tokenizer for tokenizer in family.tokenizers)
        second_parts = {"text_encoder_2": models.text_encoders[1], "tokenizer_2": second}
        return StableDiffusionXLPipeline(**parts, **second_parts, tokenizer=first, add_watermarker=False)
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **unchecked, tokenizer=family.tokenizer.hf_tokenizer)


def flatten_projections(unet: torch.nn.Module) -> None:
    """1x1 convolutions around the transformers become the Linear layers that they equal."""
    for name, module in list(unet.named_modules()):
        if name.endswith(("proj_in", "proj_out")) and isinstance(module, torch.nn.Conv2d):
            linear = torch.nn.Linear(module.in_channels, module.out_channels, device="meta")
            linear.weight = torch.nn.Parameter(module.weight.flatten(1), requires_grad=False)
            linear.bias = module.bias
            unet.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], linear)
    unet.register_to_config(use_linear_projection=True)


def _take_parts(pipeline, reference: str) -> None:
    """Scheduler and tokenizer of a diffusers folder or a model on the hub."""
    from transformers import CLIPTokenizer

    try:
        with quiet_libraries():
            pipeline.register_modules(scheduler=type(pipeline.scheduler).from_pretrained(reference, subfolder="scheduler"))
            if not os.path.isdir(reference) or os.path.isdir(os.path.join(reference, "tokenizer")):
                pipeline.register_modules(tokenizer=CLIPTokenizer.from_pretrained(reference, subfolder="tokenizer"))
    except (OSError, ValueError) as error:
        way_out = "leave it out to use our own scheduler and tokenizer"
        raise ValueError(f"--reference_model {reference}: no such folder, and no model of that id on the hub; {way_out}") from error
