"""What the user asked for (Subset, DatasetSettings) and what was found on disk (ImageRecord)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a data set is said to hold can be checked without torch
    from torch import Tensor

    from library.data.latent_files import CachedLatents


@dataclass
class Subset:
    """One folder or metadata file of a data set, with kohya's option names."""

    image_dir: str | None = None
    metadata_file: str | None = None
    conditioning_data_dir: str | None = None
    is_reg: bool = False
    class_tokens: str | None = None
    caption_extension: str = ".caption"
    cache_info: bool = False
    num_repeats: int = 1
    shuffle_caption: bool = False
    caption_separator: str = ","
    keep_tokens: int = 0
    keep_tokens_separator: str | None = None
    secondary_separator: str | None = None
    enable_wildcard: bool = False
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0
    color_aug: bool = False
    flip_aug: bool = False
    face_crop_aug_range: tuple[float, float] | None = None
    random_crop: bool = False
    center_crop: bool = False
    """For images held out: without buckets larger ones are cut from the middle, where training would cut anywhere or around a face."""
    alpha_mask: bool = False
    resize_interpolation: str | None = None
    custom_attributes: dict[str, Any] = field(default_factory=dict)
    validation_split: float | None = None
    """Held-out share of this subset; None takes the data set's."""
    validation_seed: int | None = None
    img_count: int = 0
    """Images in use, without repeats; filled in when the data set is built."""
    tag_frequency: dict[str, int] = field(default_factory=dict)
    """Filled in when captions are read: tag -> number of images that carry it."""


@dataclass
class DatasetSettings:
    """One data set of a run: its bucketing and batch size, and its subsets. Sizes are (width, height) in pixels."""

    subsets: list[Subset]
    resolution: tuple[int, int]
    batch_size: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    resize_interpolation: str | None = None
    network_multiplier: float = 1.0
    prior_loss_weight: float = 1.0
    validation_split: float = 0.0
    validation_seed: int | None = None
    skip_image_resolution: tuple[int, int] | None = None


@dataclass(slots=True)
class CachedText:
    """Captions of one image that were encoded before training.

    captions: one, or several variants of it, as trained. states: of each its text states, or the file that holds them.
    empty: the states of the empty caption, None where captions are never dropped.
    """

    captions: tuple[str, ...]
    states: list[dict[str, Tensor] | Path | None]
    empty: dict[str, Tensor] | None = None


@dataclass(slots=True)
class ImageRecord:
    """One image of a data set. Sizes are (width, height) in pixels."""

    key: str
    """The path as listed: file name within the folder as the user wrote it."""
    path: Path
    caption: str
    subset: Subset
    num_repeats: int = 1
    is_reg: bool = False
    size: tuple[int, int] | None = None
    bucket: tuple[int, int] | None = None
    resized: tuple[int, int] | None = None
    conditioning_path: Path | None = None
    latents: Tensor | None = None
    """(C, h, w), unscaled, when cached in memory; a path to the cache file stands in latents_npz otherwise."""
    latents_flipped: Tensor | None = None
    alpha_mask: Tensor | None = None
    latents_npz: Path | None = None
    held: dict[bool, CachedLatents] | None = None
    """What latents_npz holds, by whether it is flipped, where that is kept in memory."""
    cached_text: CachedText | None = None

    @property
    def needs_no_file(self) -> bool:
        """Whether samples are made from memory alone."""
        has_latents = self.latents is not None or self.held is not None
        has_text = self.cached_text is None or not any(isinstance(state, Path) for state in self.cached_text.states)
        return has_latents and has_text and self.conditioning_path is None
