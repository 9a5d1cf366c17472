"""The modelspec.* keys of a saved file, which tell other programs what it is (ModelSpec 1.0.1 of Stability AI)."""

import base64
import logging
import mimetypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SPEC_VERSION = "1.0.1"
OWN_KEYS = ("title", "implementation_version")
"""`metadata_<key>` options with a value of their own here; every other one is copied as it is."""
DEFAULT_RANGE = (0, 1000)


@dataclass(frozen=True)
class ModelFacts:
    """What a model family says about an adapter made for it. resolution: (width, height) it was made for, in pixels."""

    architecture: str
    implementation: str
    prediction_type: str
    resolution: tuple[int, int]


def modelspec_metadata(options: Mapping[str, Any], facts: ModelFacts, *, saved_at: float, commit: str | None) -> dict[str, str]:
    """Keys for one save. options: the command line under its own names; saved_at: seconds since 1970; commit: of this program."""
    resolution = size_of(options["resolution"]) if options.get("resolution") else facts.resolution
    spec = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": facts.architecture,
        "implementation": facts.implementation,
        "implementation_version": options.get("metadata_implementation_version") or f"sd-scripts/{commit or 'unknown'}",
        "title": options.get("metadata_title") or options.get("output_name") or f"LoRA@{saved_at}",
        "resolution": f"{resolution[0]}x{resolution[1]}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(saved_at)),
        "prediction_type": "v" if facts.prediction_type.startswith("v") else "epsilon",
    }
    low, high = options.get("min_timestep"), options.get("max_timestep")
    if low is not None or high is not None:
        spec["timestep_range"] = f"{DEFAULT_RANGE[0] if low is None else low},{DEFAULT_RANGE[1] if high is None else high}"
    if options.get("clip_skip") is not None:
        spec["encoder_layer"] = str(options["clip_skip"])
    spec.update(_described_by_the_user(options))
    return {f"modelspec.{key}": value for key, value in spec.items()}


def size_of(resolution: Any) -> tuple[int, int]:
    """(width, height) from a --resolution as given: 512, "512", "512,768" or a pair. Raises ValueError for anything else."""
    parts = resolution.split(",") if isinstance(resolution, str) else resolution
    if isinstance(parts, int):
        parts = [parts]
    numbers = [int(part) for part in parts]
    if len(numbers) not in (1, 2):
        raise ValueError(f"--resolution {resolution!r}: give one number, or width,height such as 512,768")
    return numbers[0], numbers[-1]


def _described_by_the_user(options: Mapping[str, Any]) -> dict[str, str]:
    """Every other --metadata_<key>, author and license as well as keys that only a config file can name."""
    described = {}
    for option, value in options.items():
        key = option.removeprefix("metadata_")
        if key == option or key in OWN_KEYS or value is None or value == "":
            continue
        if key == "thumbnail":
            value = data_uri(value)
            if value is None:
                continue
        described[key] = str(value)
    return described


def data_uri(image: str) -> str | None:
    """An image file as data:<type>;base64,...; such text itself is kept. None, with a warning, if there is no such file."""
    if image.startswith("data:"):
        return image
    path = Path(image)
    if not path.is_file():
        logger.warning("--metadata_thumbnail %s: there is no such file; the network is saved without a thumbnail", image)
        return None
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
