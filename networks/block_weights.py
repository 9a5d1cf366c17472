"""Ranks and learning rates per U-Net block: block numbers, and the rate weights `down_lr_weight`, `mid_lr_weight`, `up_lr_weight`.

SD1 and SD2 have 25 blocks (12 down, 1 mid, 12 up). SDXL has 23: the embeddings, 9 input, 3 middle, 9 output blocks, the output layer.
"""

import logging
import math
import re
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockLayout:
    """How many entries each part of a block list has."""

    down: int
    mid: int
    up: int
    outer: int  # entries before and after, which no learning-rate weight reaches

    @property
    def count(self) -> int:
        return self.down + self.mid + self.up + 2 * self.outer


SD_LAYOUT = BlockLayout(down=12, mid=1, up=12, outer=0)
SDXL_LAYOUT = BlockLayout(down=9, mid=3, up=9, outer=1)

PRESETS = {
    "sine": lambda i, last: math.sin(math.pi / 2 * i / last),
    "cosine": lambda i, last: math.sin(math.pi / 2 * (last - i) / last),
    "linear": lambda i, last: i / last,
    "reverse_linear": lambda i, last: (last - i) / last,
    "zeros": lambda i, last: 0.0,
}

_SD_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_SDXL_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)")
_SDXL_FIRST = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}


def block_index(path: str) -> int:
    """The block a U-Net layer belongs to, by its path as in `Target.path`. Raises ValueError for a layer outside all blocks."""
    if path.startswith("mid_block."):
        return 12
    if found := _SDXL_BLOCK.match(path):
        return _SDXL_FIRST[found[1]] + int(found[2])
    if found := _SD_BLOCK.match(path):
        within = 2 if found[3].endswith("samplers") else int(found[4])
        return (1 if found[1] == "down" else 13) + 3 * int(found[2]) + within
    raise ValueError(f"the U-Net layer {path} belongs to no numbered block")


def parse_numbers(key: str, text: str, kind: type = float) -> list:
    """Numbers between commas; an empty item is 0. Raises ValueError naming `key`."""
    try:
        return [kind(item) if item.strip() else kind(0) for item in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"--network_args {key}={text}: needs {what} separated by commas") from None


def block_list(key: str, text: str, layout: BlockLayout, kind: type = float) -> list:
    """One number per block, exactly. Raises ValueError naming `key`, the count given and the count needed."""
    values = parse_numbers(key, text, kind)
    if len(values) != layout.count:
        parts = [layout.outer, layout.down, layout.mid, layout.up, layout.outer]
        shape = " + ".join(str(part) for part in parts if part)
        raise ValueError(f"--network_args {key} has {len(values)} values, this model needs {layout.count} ({shape})")
    return values


def block_rate_weights(
    down: str | None, mid: str | None, up: str | None, *, layout: BlockLayout, zero_threshold: float = 0.0
) -> list[float] | None:
    """Learning-rate factor per block, or None if no weight is given. Factors not above `zero_threshold` become 0."""
    if down is None and mid is None and up is None:
        return None
    parts = [
        _part("down_lr_weight", down, layout.down, zero_threshold, presets=True),
        _part("mid_lr_weight", mid, layout.mid, zero_threshold, presets=False),
        _part("up_lr_weight", up, layout.up, zero_threshold, presets=True),
    ]
    outer = [1.0] * layout.outer
    return [*outer, *parts[0], *parts[1], *parts[2], *outer]


def _part(key: str, text: str | None, length: int, zero_threshold: float, *, presets: bool) -> list[float]:
    if text is None:
        return [1.0] * length
    if presets and "," not in text:
        values = preset_weights(key, text, length)
    else:
        values = _fitted(key, parse_numbers(key, text), length)
    return [value if value > zero_threshold else 0.0 for value in values]


def preset_weights(key: str, text: str, length: int) -> list[float]:
    """A named curve over the blocks, such as `sine` or `cosine+.25`. Raises ValueError for any other word."""
    name, _, base = text.partition("+")
    curve = PRESETS.get(name.strip())
    try:
        offset = float(base) if base.strip() else 0.0
    except ValueError:
        curve = None
    if curve is None:
        raise ValueError(
            f"--network_args {key}={text}: give {length} numbers separated by commas, "
            f"or a curve: {', '.join(PRESETS)}, each with an optional base as in cosine+.25"
        )
    return [curve(i, length - 1) + offset for i in range(length)]


def _fitted(key: str, values: list[float], length: int) -> list[float]:
    if len(values) < length:
        logger.warning("%s has %d values, %d are needed: the missing ones are 1", key, len(values), length)
    elif len(values) > length:
        logger.warning("%s has %d values, %d are needed: the last %d are not used", key, len(values), length, len(values) - length)
    return (values + [1.0] * length)[:length]
