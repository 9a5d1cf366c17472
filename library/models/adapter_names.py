"""Names of adapters that a stranger's module built from our models' paths, and the names files carry.

Adapter modules are named by the path of the layer they wrap. Files follow kohya's models: SDXL's U-Net in the original
layout, text encoders with a `text_model` level. Our models are diffusers' and transformers', whose paths differ in both.
"""

import re
from collections.abc import Callable, Sequence

from torch import nn

from library.models.family import AdapterKeyNames
from library.models.sdxl_keys import adapter_name_to_diffusers, adapter_name_to_original

NAME = re.compile(r"(?P<prefix>[a-z]+_(?P<part>unet|te\d?))_(?P<rest>.*)", re.DOTALL)
LEVEL = "text_model_"


def adapter_key_names(text_encoders: Sequence[nn.Module], *, original_unet_names: bool) -> AdapterKeyNames:
    """The mapping for these text encoders. original_unet_names: files have the U-Net's names in the original layout (SDXL)."""
    has_level = [hasattr(text_encoder, "text_model") for text_encoder in text_encoders]

    def to_file(part: str, rest: str) -> str:
        if part == "unet":
            return adapter_name_to_original(rest) if original_unet_names else rest
        return LEVEL + rest if rest.startswith(("encoder_", "embeddings_", "final_layer_norm")) else rest

    def from_file(part: str, rest: str) -> str:
        if part == "unet":
            return adapter_name_to_diffusers(rest) if original_unet_names else rest
        number = int(part[2:] or 1) - 1
        return rest if number >= len(has_level) or has_level[number] else rest.removeprefix(LEVEL)

    return AdapterKeyNames(_on_names(to_file), _on_names(from_file))


def _on_names(change: Callable[[str, str], str]) -> Callable[[str], str]:
    def changed(name: str) -> str:
        found = NAME.fullmatch(name)
        return f"{found['prefix']}_{change(found['part'], found['rest'])}" if found else name

    return changed
