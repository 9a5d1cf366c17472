"""--dataset_class: a data set of the user's own in place of ours, one item of which is a whole batch.

The class is made as sd-scripts makes it, with (None, max_token_length, resolution, debug_dataset). It needs `__len__` and
`__getitem__`; `MinimalDataset` brings the rest. An item is a dict:

    captions (list of text) and either images (B, 3, H, W) in -1..1 or latents (B, C, H/8, W/8), not scaled;
    if wanted input_ids_list (one (B, chunks, 77) per text encoder; made from the captions otherwise), loss_weights (B,),
    original_sizes_hw, crop_top_lefts, target_sizes_hw (B, 2), flippeds, image_keys, custom_attributes (lists),
    alpha_masks (B, H, W), conditioning_images (B, 3, H, W), network_multipliers (B,). Other keys are not looked at.
"""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from library.data.batch import Batch
from library.data.changing import Cacheable
from library.data.latent_files import LATENT_STRIDE
from library.data.samples import Tokenize
from library.data.subsets import DatasetSettings
from library.strangers import strangers_code

CANNOT_CACHE = "--dataset_class makes its own batches, which cannot be cached: hand over latents or leave the option out"


class MinimalDataset(Dataset):
    """A start for data sets of one's own. Set `batch_size`, and num_train_images where it is not len(self) * batch_size."""

    def __init__(self, tokenizer: None, max_token_length: int | None, resolution: tuple[int, int], debug_dataset: bool = False):
        self.tokenizer = tokenizer
        self.max_token_length = max_token_length
        self.resolution = resolution
        self.debug_dataset = debug_dataset
        self.batch_size = 1
        self.seed = 0
        self.current_epoch = 0
        self.current_step = 0
        self.max_train_steps = 0

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def set_current_epoch(self, epoch: int) -> None:
        """1-based; called before an item of another epoch is asked for."""
        self.current_epoch = epoch

    def set_current_step(self, step: int) -> None:
        self.current_step = step

    def set_max_train_steps(self, max_train_steps: int) -> None:
        self.max_train_steps = max_train_steps

    def __len__(self) -> int:
        """Batches per epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def __getitem__(self, number: int) -> dict:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__")


@dataclass
class _Described:
    """The custom data set as the metadata of saved files describe it."""

    settings: DatasetSettings
    subsets: list
    num_train_images: int
    index: int = 0
    num_reg_images: int = 0
    bucket_info: dict | None = None


class CustomGroup(Cacheable, Dataset):
    """A custom data set with what the recipe asks of a DatasetGroup."""

    needs_no_file = False
    records = ()  # it tells no captions

    def __init__(self, dataset: Any, name: str, resolution: tuple[int, int], *, strict_compat: bool):
        """Raises ValueError for an object that is no data set, or an empty one."""
        for method in ("__len__", "__getitem__"):
            if not hasattr(dataset, method):
                raise ValueError(f"--dataset_class {name} has no {method}: a data set needs a length and batches by number")
        if len(dataset) == 0:
            raise ValueError(f"--dataset_class {name}: the data set is empty, there is nothing to train on")
        self.dataset, self.name, self.strict_compat = dataset, name, strict_compat
        batch_size = int(getattr(dataset, "batch_size", 1))
        self.num_train_images = int(getattr(dataset, "num_train_images", len(dataset) * batch_size))
        self.num_reg_images = int(getattr(dataset, "num_reg_images", 0))
        self.datasets = [_Described(DatasetSettings([], resolution, batch_size), [], self.num_train_images)]
        self.tokenize: Tokenize | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def samples_per_epoch(self) -> int:
        return self.num_train_images

    def __getitem__(self, item: int | tuple[int, int, int]) -> Batch:
        """item: (epoch, step, number), or with strict_compat the number alone. Raises ValueError for an item that is no batch."""
        epoch, step, number = (0, 0, item) if isinstance(item, int) else item
        if not self.strict_compat:
            self.set_clock(epoch, step)
        batch = batch_of(self.dataset[number], self.name, number)
        if batch.input_ids is None and self.tokenize is not None:
            batch.input_ids, batch.token_weights = self.tokenize(batch.captions)
        batch.batch_index, batch.epoch, batch.step = number, epoch, step
        return batch

    def _tell(self, method: str, value: int) -> None:
        told = getattr(self.dataset, method, None)
        if told is not None:
            told(value)

    def set_clock(self, epoch: int, step: int) -> None:
        self._tell("set_current_epoch", epoch)
        self._tell("set_current_step", step)

    def set_seed(self, seed: int) -> None:
        self._tell("set_seed", seed)

    def set_max_train_steps(self, max_train_steps: int) -> None:
        self._tell("set_max_train_steps", max_train_steps)

    def set_tokenize(self, tokenize: Tokenize | None) -> None:
        self.tokenize = tokenize

    def drop(self, keys: Collection[str]) -> None:
        """There are no images known by name."""

    def check_bucket_steps(self, multiple: int) -> None:
        """There are no buckets."""

    def latents_cacheable(self) -> list[str]:
        return [CANNOT_CACHE]

    def text_states_cacheable(self, variants: bool = False) -> list[str]:
        return [CANNOT_CACHE]

    captions_are_static = False
    has_cached_latents = False
    has_cached_text_states = False

    def table(self) -> str:
        return f"{self.name}: {self.num_train_images} images in {len(self)} batches per epoch"


def dataset_class(name: str) -> type:
    """The class at a dotted path. Raises ValueError saying what is missing."""
    module, _, class_name = name.rpartition(".")
    if not module:
        raise ValueError(f"--dataset_class {name}: give the module too, such as my_data.MyDataset")
    with strangers_code(f"--dataset_class {name}: importing {module}", "Mend the module"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as missing:
            found, absent = None, missing.name
    if found is None:
        raise ValueError(f"--dataset_class {name}: there is no module {absent!r} here, is its folder in PYTHONPATH?")
    if not hasattr(found, class_name):
        raise ValueError(f"--dataset_class {name}: {module} has no {class_name}")
    return getattr(found, class_name)


def batch_of(item: Any, name: str, number: int) -> Batch:
    """The Batch of a custom item. Raises ValueError saying what the item lacks or has too much."""
    problem = _problem(item)
    if problem:
        raise ValueError(f"--dataset_class {name}, batch {number}: {problem}")
    captions = list(item["captions"])
    count = len(captions)
    images, latents = item.get("images"), item.get("latents")
    height, width = images.shape[-2:] if latents is None else (side * LATENT_STRIDE for side in latents.shape[-2:])
    sizes = torch.tensor([[height, width]]).repeat(count, 1)
    return Batch(
        captions=captions,
        image_keys=_list(item.get("image_keys"), [f"batch {number}, image {place}" for place in range(count)]),
        loss_weights=_tensor(item.get("loss_weights"), torch.ones(count)).float(),
        original_sizes_hw=_tensor(item.get("original_sizes_hw"), sizes),
        crop_top_lefts=_tensor(item.get("crop_top_lefts"), torch.zeros(count, 2, dtype=torch.int64)),
        target_sizes_hw=_tensor(item.get("target_sizes_hw"), sizes),
        flipped=_list(item.get("flippeds"), [False] * count),
        bucket=(width, height),
        images=images if latents is None else None,
        latents=latents,
        input_ids=item.get("input_ids_list"),
        alpha_masks=item.get("alpha_masks"),
        conditioning_images=item.get("conditioning_images"),
        custom_attributes=_list(item.get("custom_attributes"), [{} for _ in captions]),
        network_multipliers=_tensor(item.get("network_multipliers"), torch.ones(count)),
    )


def _problem(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return f"an item must be a dict of a whole batch, got {type(item).__name__}"
    if item.get("captions") is None:
        return "captions are missing"
    pictures = [(key, item[key]) for key in ("latents", "images") if item.get(key) is not None]
    if not pictures:
        return "images or latents are missing"
    key, tensor = pictures[0]
    if not isinstance(tensor, Tensor) or tensor.dim() != 4 or len(tensor) != len(item["captions"]):
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        return f"{key} must be a tensor of four dimensions, one row for each of the {len(item['captions'])} captions; got {found}"
    if item.get("text_encoder_outputs_list") is not None:
        return "text_encoder_outputs_list cannot be taken over: hand over captions or input_ids_list"
    return None


def _list(given: Any, default: list) -> list:
    return default if given is None else list(given)


def _tensor(given: Any, default: Tensor) -> Tensor:
    return default if given is None else torch.as_tensor(given)
