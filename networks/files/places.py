"""Where the layer that an adapter module belongs to lies in a model's single file."""

from collections.abc import Iterable
from dataclasses import dataclass

from library.models.kinds import SD1, SD2, SDXL, kind_of_tensors
from library.models.ldm_keys import CLIP_PREFIX, OPENCLIP_PREFIX, OPENCLIP_PROJECTIONS, UNET_PREFIX, inverse, openclip_table, renamed
from library.models.sdxl_keys import TEXT_ENCODER_1_PREFIX, TEXT_ENCODER_2_PREFIX
from networks.files.names import OFT_UNET, TE, TE1, TE2, UNET, kohya_module


@dataclass(frozen=True)
class Place:
    """key: the tensor in the file. third: which third of its rows, None for all; OpenCLIP stacks query, key and value."""

    key: str
    third: int | None = None

    def bias(self) -> "Place":
        """The same layer's bias."""
        key = self.key[: -len("weight")] + "bias" if self.key.endswith("weight") else self.key
        return Place(key, self.third)


def kind_of_model(names: Iterable[str], path: str) -> str:
    """SD1, SD2 or SDXL, as in library.models.kinds. Raises ValueError for anything else."""
    kind = kind_of_tensors(names)
    if kind not in (SD1, SD2, SDXL):
        raise ValueError(f"{path} is {kind}, not a whole Stable Diffusion 1, 2 or XL model in one file")
    return kind


def places(names: Iterable[str], kind: str) -> dict[str, Place]:
    """Module in kohya's names -> place of its layer's weight, for every layer of a single file of this kind."""
    names, sdxl = list(names), kind == SDXL
    found: dict[str, Place] = {}
    for name in names:
        if name.startswith(UNET_PREFIX) and name.endswith(".weight"):
            path = name.removeprefix(UNET_PREFIX).removesuffix(".weight")
            module = kohya_module(f"diffusion_model.{path}", sdxl=sdxl)
            found[module] = found[module.replace(UNET, OFT_UNET, 1)] = Place(name)
    clip, openclip = {
        SD1: ((CLIP_PREFIX, TE), None),
        SD2: (None, (OPENCLIP_PREFIX, TE)),
        SDXL: ((TEXT_ENCODER_1_PREFIX, TE1), (TEXT_ENCODER_2_PREFIX, TE2)),
    }[kind]
    if clip:
        found |= _clip_places(names, *clip)
    if openclip:
        found |= _openclip_places(names, *openclip)
    return found


def _clip_places(names: list[str], start: str, prefix: str) -> dict[str, Place]:
    """A text encoder in transformers' names; old files lack `text_model.` in them."""
    found = {}
    for name in names:
        if name.startswith(start) and name.endswith(".weight"):
            path = name.removeprefix(start).removeprefix("text_model.").removesuffix(".weight")
            found[f"{prefix}text_model_{path.replace('.', '_')}"] = Place(name)
    return found


def _openclip_places(names: list[str], start: str, prefix: str) -> dict[str, Place]:
    paths = [name.removeprefix(start) for name in names if name.startswith(start)]
    layers = 1 + max((int(path.split(".")[2]) for path in paths if path.startswith("transformer.resblocks.")), default=-1)
    table = inverse(openclip_table(layers))
    found = {}
    for path in paths:
        if path.endswith(".attn.in_proj_weight"):
            layer = path.split(".")[2]
            for third, projection in enumerate(OPENCLIP_PROJECTIONS):
                found[f"{prefix}text_model_encoder_layers_{layer}_self_attn_{projection}"] = Place(start + path, third)
        elif path.endswith(".weight"):
            module = renamed(path.removesuffix(".weight"), table)
            if module:
                found[prefix + module.replace(".", "_")] = Place(start + path)
    return found
