"""How strongly each module of a file counts: its ratio, one for text encoders if wanted, and weights by block.

Block lists are those of the web UIs. There are 26 slots, BASE, IN00-IN11, M00 and OUT00-OUT11; lists for SD1 and SD2 name 17
or all of them, lists for SDXL 12 or 20. BASE is the text encoders.
"""

import json
import re
from collections.abc import Callable, Sequence

from networks.files.names import OFT_UNET, UNET, section

Strength = Callable[[str], float]  # module in kohya's names -> factor

BASE, MID, SLOTS = 0, 13, 26
IN, OUT = 1, 14  # slots of IN00 and OUT00

LISTS = {
    12: [BASE, IN + 4, IN + 5, IN + 7, IN + 8, MID, *range(OUT, OUT + 6)],
    17: [BASE, IN + 1, IN + 2, IN + 4, IN + 5, IN + 7, IN + 8, MID, *range(OUT + 3, OUT + 12)],
    20: [BASE, *range(IN, IN + 9), MID, *range(OUT, OUT + 9)],
    26: list(range(SLOTS)),
}
SDXL_LISTS, SD_LISTS = (12, 20), (17, 26)
_SD_BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)")
_SDXL_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)")


def block_slot(module: str) -> int:
    """The slot, 0..25, of a module in kohya's names."""
    if section(module) == "text_encoder":
        return BASE
    path = module.removeprefix(UNET).removeprefix(OFT_UNET)
    if found := _SDXL_BLOCK.match(path):
        return MID if found[1] == "middle_block" else (IN if found[1] == "input_blocks" else OUT) + int(found[2])
    if found := _SD_BLOCK.match(path):
        within = 2 if found[3].endswith("samplers") else int(found[4])
        return 3 * int(found[2]) + within + (IN + 1 if found[1] == "down" else OUT)
    if path.startswith("mid_block"):
        return MID
    if path.startswith("out_"):
        return OUT + 9
    return SLOTS - 1 if path.startswith("conv_out") else IN


def parse_block_weights(text: str) -> list[float]:
    """26 weights from a list of 12, 17, 20 or 26, as JSON or between commas; slots that a list leaves out weigh 1.

    Raises ValueError for another count or anything that is no number.
    """
    try:
        values = [float(value) for value in json.loads(text if text.lstrip().startswith("[") else f"[{text}]")]
    except (ValueError, TypeError):
        raise ValueError(f"--lbws {text!r}: give numbers between commas, one list per model") from None
    if len(values) not in LISTS:
        raise ValueError(f"--lbws has {len(values)} values in {text!r}; lists of {', '.join(map(str, LISTS))} are known")
    weights = [1.0] * SLOTS
    for slot, value in zip(LISTS[len(values)], values, strict=True):
        weights[slot] = value
    return weights


def list_is_for_sdxl(text: str) -> bool:
    """Whether a block list has one of SDXL's lengths."""
    return len(json.loads(text if text.lstrip().startswith("[") else f"[{text}]")) in SDXL_LISTS


def one_per_model(option: str, values: Sequence | None, models: Sequence[str]) -> Sequence:
    """The values of an option that takes one per model, or None for each. Raises ValueError if their number differs."""
    if not values:
        return [None] * len(models)
    if len(values) != len(models):
        raise ValueError(f"{option} has {len(values)} values for {len(models)} --models: give one for each, in the same order")
    return values


def strengths(
    models: Sequence[str], ratios: Sequence[float] | None, lbws: Sequence[str] | None = None,
    unet_ratios: Sequence[float] | None = None, te_ratios: Sequence[float] | None = None,
) -> list[tuple[Strength, Strength]]:  # fmt: skip
    """(ratio, block weight) of each model as functions of the module. unet_ratios and te_ratios stand in for `ratios` in their part.

    Raises ValueError if a list has another length than `models`.
    """
    if not models:
        raise ValueError("--models names no file: give at least one")
    if not ratios and not (unet_ratios and te_ratios):
        raise ValueError(f"--ratios is missing: give one number for each of the {len(models)} --models, such as 1.0 or 0.7")
    columns = (
        one_per_model("--ratios", ratios, models),
        one_per_model("--unet_ratios", unet_ratios, models),
        one_per_model("--te_ratios", te_ratios, models),
        one_per_model("--lbws", lbws, models),
    )
    return [(_ratio(ratio, unet, te), _block_weight(lbw)) for ratio, unet, te, lbw in zip(*columns, strict=True)]


def _ratio(ratio: float | None, unet: float | None, text_encoder: float | None) -> Strength:
    own = {"unet": ratio if unet is None else unet, "text_encoder": ratio if text_encoder is None else text_encoder}
    return lambda module: own[section(module)]


def _block_weight(text: str | None) -> Strength:
    if text is None:
        return lambda module: 1.0
    weights = parse_block_weights(text)
    return lambda module: weights[block_slot(module)]


def product(ratio: Strength, block_weight: Strength) -> Strength:
    return lambda module: ratio(module) * block_weight(module)
