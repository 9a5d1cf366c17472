"""One training sample: an image or its cached latents with caption, sizes and mask, and the batch made of several."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.data.augment import augment_color, draw_flip, flip_image
from library.data.batch import Batch
from library.data.buckets import Size
from library.data.captions import is_dropped, process_caption
from library.data.framing import Framing, centered, frame_in_bucket, frame_unscaled, reference_crop_box, reference_crop_top_left
from library.data.images import load_image, resize_image
from library.data.latent_files import LATENT_STRIDE, CachedLatents, read_latents
from library.data.pixels import alpha_tensor, to_bytes
from library.data.subsets import CachedText, DatasetSettings, ImageRecord, Subset
from library.data.text_files import read_text_states

Tokenize = Callable[[list[str]], tuple[list[Tensor], list[Tensor] | None]]


@dataclass(frozen=True)
class Moment:
    """When a sample is made: epoch (1-based), global step, and the source of chance (the module `random` or a random.Random)."""

    epoch: int
    step: int
    max_train_steps: int
    rng: random.Random


@dataclass
class Sample:
    """Sizes are (width, height); crop_top_left is (top, left). Shapes as in Batch, without the B."""

    record: ImageRecord
    flipped: bool
    original_size: Size
    crop_top_left: tuple[int, int]
    target_size: Size
    image: Tensor | None = None
    latents: Tensor | None = None
    alpha_mask: Tensor | None = None
    conditioning_image: Tensor | None = None
    caption: str = ""
    text_states: dict[str, Tensor] | None = None


def make_sample(record: ImageRecord, settings: DatasetSettings, moment: Moment, *, strict_compat: bool) -> Sample:
    """Draws, in this order: flip, crop, colour, caption.

    strict_compat: crop coordinates, 16-bit greys and conditioning images with the defects of sd-scripts.
    Raises BadImage for a file that cannot be decoded.
    """
    flipped = draw_flip(record.subset.flip_aug, moment.rng)
    if is_cached(record):
        sample, framing = _from_latents(record, flipped, strict_compat)
    else:
        sample, framing = _from_file(record, settings, flipped, moment.rng, strict_compat)
    if record.conditioning_path is not None:
        sample.conditioning_image = _conditioning(record, settings, framing, flipped, strict_compat)
    _add_text(sample, moment, strict_compat)
    return sample


def is_cached(record: ImageRecord) -> bool:
    return record.latents is not None or record.latents_npz is not None


def frame_record(record: ImageRecord, size: Size, settings: DatasetSettings, rng) -> Framing:
    """How the decoded image of `size` is scaled and cut when its latents are not cached."""
    if settings.enable_bucket:
        return frame_in_bucket(size, record, record.subset.random_crop, rng)
    return frame_unscaled(size, settings.resolution, record.subset, record.path, rng)


def interpolation_of(record: ImageRecord, settings: DatasetSettings) -> str | None:
    return record.subset.resize_interpolation or settings.resize_interpolation


def _from_file(record: ImageRecord, settings: DatasetSettings, flipped: bool, rng, strict_compat: bool) -> tuple[Sample, Framing]:
    subset = record.subset
    image = load_image(record.path, subset.alpha_mask, strict_compat=strict_compat)
    framing = frame_record(record, _size(image), settings, rng)
    image = framing.apply(image, interpolation_of(record, settings))
    if subset.color_aug:
        image = augment_color(image, rng)
    if flipped:
        image = flip_image(image)
    original, crop_top_left = framing.original, framing.crop_top_left(flipped)
    if strict_compat:
        original = framing.original if settings.enable_bucket else framing.target
        box = reference_crop_box(framing, settings.enable_bucket)
        crop_top_left = reference_crop_top_left(box, framing.target[0], flipped)
    sample = Sample(record, flipped, original, crop_top_left, framing.target, image=to_bytes(image))
    if subset.alpha_mask:
        sample.alpha_mask = alpha_tensor(image)
    return sample, framing


def _from_latents(record: ImageRecord, flipped: bool, strict_compat: bool) -> tuple[Sample, Framing]:
    keep_mask = record.subset.alpha_mask or strict_compat
    if record.held is not None:
        cached = record.held[flipped]
    elif record.latents is None:
        cached = read_latents(record.latents_npz, flipped=flipped, alpha_mask=keep_mask)
    else:
        cached = CachedLatents(
            record.latents_flipped if flipped else record.latents, record.size, (0, 0, 0, 0), alpha_mask=record.alpha_mask
        )
    target = cached.latents.shape[-1] * LATENT_STRIDE, cached.latents.shape[-2] * LATENT_STRIDE
    framing = centered(cached.original_size, record.resized, target)
    crop_top_left = framing.crop_top_left(flipped)
    if strict_compat:
        box = cached.crop_box if record.latents is None else reference_crop_box(framing, bucketed=True)
        crop_top_left = reference_crop_top_left(box, target[0], flipped)
    mask = cached.alpha_mask if keep_mask else None
    if mask is not None and flipped:
        mask = mask.flip(-1)
    sample = Sample(record, flipped, cached.original_size, crop_top_left, target, latents=cached.latents, alpha_mask=mask)
    return sample, framing


def _conditioning(record: ImageRecord, settings: DatasetSettings, framing: Framing, flipped: bool, strict_compat: bool) -> Tensor:
    """The paired image cut just as the training image; with strict_compat squeezed to its final size whatever was cut off.

    Raises ValueError when it does not have the size of the training image.
    """
    image = load_image(record.conditioning_path, strict_compat=strict_compat)
    if _size(image) != framing.original and (settings.enable_bucket or not strict_compat):
        width, height = framing.original
        raise ValueError(
            f"{record.conditioning_path} is {image.shape[1]}x{image.shape[0]} but its training image {record.path} is {width}x{height}: "
            "make both the same size"
        )
    if strict_compat:
        image = resize_image(image, framing.target, settings.resize_interpolation)
    else:
        image = framing.apply(image, interpolation_of(record, settings))
    return to_bytes(flip_image(image) if flipped else image)


def _add_text(sample: Sample, moment: Moment, strict_compat: bool) -> None:
    """The caption to train on, and its states if they are cached."""
    record = sample.record
    if record.cached_text is not None:
        sample.caption, sample.text_states = _cached_caption(record.cached_text, record.subset, moment)
    else:
        untold = strict_compat and record.conditioning_path is not None  # sd-scripts does not tell these data sets the time
        sample.caption = process_caption(
            record.caption,
            record.subset,
            rng=moment.rng,
            epoch=0 if untold else moment.epoch,
            step=0 if untold else moment.step,
            max_train_steps=0 if untold else moment.max_train_steps,
        )


def _cached_caption(cached: CachedText, subset: Subset, moment: Moment) -> tuple[str, dict[str, Tensor]]:
    """A cached caption and its states. Draws: caption drop-out, then which of several variants."""
    if cached.empty is not None and is_dropped(subset, moment.rng, moment.epoch):
        return "", cached.empty
    number = moment.rng.randrange(len(cached.captions)) if len(cached.captions) > 1 else 0
    states = cached.states[number]
    return cached.captions[number], read_text_states(states) if isinstance(states, Path) else states


def _size(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]


def make_batch(samples: list[Sample], settings: DatasetSettings, tokenize: Tokenize | None) -> Batch:
    """Stacks samples of one bucket. Raises ValueError naming the images whose sizes differ."""
    captions = [sample.caption for sample in samples]
    text_states = _stacked_states(samples)
    input_ids, token_weights = tokenize(captions) if tokenize is not None and text_states is None else (None, None)
    return Batch(
        captions=captions,
        image_keys=[sample.record.key for sample in samples],
        loss_weights=torch.tensor([settings.prior_loss_weight if sample.record.is_reg else 1.0 for sample in samples]),
        original_sizes_hw=torch.tensor([sample.original_size[::-1] for sample in samples]),
        crop_top_lefts=torch.tensor([sample.crop_top_left for sample in samples]),
        target_sizes_hw=torch.tensor([sample.target_size[::-1] for sample in samples]),
        flipped=[sample.flipped for sample in samples],
        bucket=samples[0].target_size,
        images=_stacked(samples, "image"),
        latents=_stacked(samples, "latents"),
        input_ids=input_ids,
        token_weights=token_weights,
        text_states=text_states,
        alpha_masks=_stacked_masks(samples),
        conditioning_images=_stacked(samples, "conditioning_image"),
        custom_attributes=[sample.record.subset.custom_attributes for sample in samples],
        network_multipliers=torch.full((len(samples),), float(settings.network_multiplier)),
    )


def _stacked(samples: list[Sample], name: str) -> Tensor | None:
    tensors = [getattr(sample, name) for sample in samples]
    if all(tensor is None for tensor in tensors):
        return None
    if any(tensor is None or tensor.shape != tensors[0].shape for tensor in tensors):
        shapes = ["none" if tensor is None else tuple(tensor.shape) for tensor in tensors]
        found = "; ".join(f"{sample.record.path}: {shape}" for sample, shape in zip(samples, shapes, strict=True))
        raise ValueError(f"the {name.replace('_', ' ')} of images in one batch must have one shape, got {found}")
    return torch.stack(tensors)


def _stacked_masks(samples: list[Sample]) -> Tensor | None:
    """(B, H, W), ones for images without a mask; None when no image has one."""
    mask = next((sample.alpha_mask for sample in samples if sample.alpha_mask is not None), None)
    if mask is None:
        return None
    return torch.stack([torch.ones_like(mask) if sample.alpha_mask is None else sample.alpha_mask for sample in samples])


def _stacked_states(samples: list[Sample]) -> dict[str, Tensor] | None:
    """Cached text states side by side; shorter ones are filled with zeros at the end."""
    states = [sample.text_states for sample in samples]
    if any(state is None for state in states):
        return None
    return {name: _padded_stack([state[name] for state in states]) for name in states[0]}


def _padded_stack(tensors: list[Tensor]) -> Tensor:
    if tensors[0].dim() == 0:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
