"""Pictures in PNG files that tell how they were made, in the text that web UIs read ("parameters")."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from library.files import written_whole

PARAMETERS = "parameters"


def picture_of(pixels: Tensor) -> Image.Image:
    """pixels: (3, H, W) in -1..1; what lies outside is cut off, and NaN is black."""
    shades = torch.nan_to_num(pixels.float(), nan=-1.0).mul(127.5).add(127.5).round().clamp(0, 255)
    return Image.fromarray(shades.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def parameters_text(prompt: str, negative_prompt: str, settings: Mapping[str, object]) -> str:
    """The prompt, a line with the negative one if there is any, and a line of `Name: value` pairs.

    A value that holds a comma, a colon or a line break stands in double quotes, as web UIs write it.
    """
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items()))
    return "\n".join(lines)


def write_png(path: Path, picture: Image.Image, parameters: str) -> None:
    """Writes the file whole or not at all; `parameters` may be in any language."""
    text = PngInfo()
    text.add_text(PARAMETERS, parameters)
    with written_whole(path) as unfinished:
        picture.save(unfinished, format="PNG", pnginfo=text)


def _quoted(value: str) -> str:
    if not any(sign in value for sign in ",:\n"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
