"""The prompts of preview pictures, read from --sample_prompts: a .txt, .toml or .json file in kohya's forms.

Plain text and no torch. A line of a .txt file is a prompt with inline options behind it: `a cat --w 512 --h 768 --n blurry`.
"""

import json
import logging
import re
from argparse import Namespace
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml

from library.models.prompt_weights import parse_weights

logger = logging.getLogger(__name__)

STEPS, SCALE = 30, 7.5
MAX_STEPS = 1000
SMALLEST, LARGEST, SIZE_STEP = 64, 16384, 8

WHOLE, DECIMAL, TEXT = r"\d+", r"\d+\.?\d*|\.\d+", r".+"
INLINE = {
    "w": ("width", WHOLE),
    "h": ("height", WHOLE),
    "d": ("seed", WHOLE),
    "s": ("sample_steps", WHOLE),
    "l": ("scale", DECIMAL),
    "n": ("negative_prompt", TEXT),
    "ss": ("sample_sampler", TEXT),
}
"""Inline option -> the key it sets, and how its value is written."""
WITHOUT_EFFECT = {"g", "cn", "ctr", "rcfg", "fs", "controlnet_image", "guidance_scale", "cfg_trunc_ratio", "renorm_cfg", "flow_shift"}
"""Known to sd-scripts, for other kinds of models."""
KINDS: dict[str, type | tuple[type, ...]] = {
    "prompt": str,
    "negative_prompt": str,
    "width": int,
    "height": int,
    "seed": int,
    "sample_steps": int,
    "scale": (int, float),
    "sample_sampler": str,
}
KIND_NAMES = {str: "text", int: "a whole number", (int, float): "a number"}

Entries = list[tuple[str, str | dict[str, Any]]]
"""Where in the file, and a text with inline options or the keys."""


@dataclass(frozen=True)
class PreviewPrompt:
    """One picture to draw. index: its place among the file's prompts, from 0. width, height: pixels.

    seed: None (in the file also -1) for another picture each time. sampler: None for the one of --sample_sampler.
    """

    index: int
    prompt: str
    width: int
    height: int
    negative_prompt: str = ""
    seed: int | None = None
    steps: int = STEPS
    scale: float = SCALE
    sampler: str | None = None


def draws_previews(args: Namespace) -> bool:
    """Whether this run draws pictures."""
    return bool(args.sample_every_n_steps or args.sample_every_n_epochs or args.sample_at_first)


def read_preview_prompts(path: str | Path, *, default_size: tuple[int, int], samplers: Collection[str]) -> list[PreviewPrompt]:
    """All prompts of the file, in order; [] for a file without any.

    default_size: (width, height) where a prompt gives none. samplers: the names that are known, without a `k_` in front.
    What sd-scripts passes over (unknown options, malformed inline options, unknown samplers) is told in a warning.
    Raises ValueError with file and line for a file that is not what its ending says, and, all at once, for values of another
    kind and malformed weights.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"--sample_prompts {path}: the name must end in {', '.join(READERS)}")
    prompts, mistakes = [], []
    for index, (place, entry) in enumerate(reader(_text(path), path)):
        where = f"--sample_prompts {path}, {place}"
        keys = parse_line(entry, where) if isinstance(entry, str) else entry
        try:
            prompts.append(_prompt(index, keys, default_size, samplers, where))
        except ValueError as mistake:
            mistakes.append(f"{where}: {mistake}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return prompts


def parse_line(line: str, where: str) -> dict[str, Any]:
    """The keys of a prompt with inline options; an option that is unknown or malformed is told and left out."""
    text, *options = line.split(" --")
    keys: dict[str, Any] = {"prompt": text.strip()}
    for option in options:
        name, _, value = option.strip().partition(" ")
        key, form = INLINE.get(name.lower(), (None, ""))
        found = re.match(form, value.strip())
        if key is None:
            logger.warning("%s: --%s %s, left out", where, name, _why_unknown(name, INLINE))
        elif not found:
            logger.warning("%s: --%s needs %s, got %r: left out", where, name, KIND_NAMES[KINDS[key]], value)
        else:
            keys[key] = {WHOLE: int, DECIMAL: float, TEXT: str}[form](found.group())
    return keys


def _why_unknown(name: str, known: Collection[str]) -> str:
    return "has no effect for these models" if name.lower() in WITHOUT_EFFECT else f"is none of {', '.join(known)}"


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"--sample_prompts {path}, line {line}: this is not UTF-8; save the file as UTF-8") from None


def _text_entries(text: str, path: Path) -> Entries:
    """One prompt to a line; empty lines and lines that begin with # do not count."""
    lines = [(f"line {number}", line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(place, line) for place, line in lines if line and not line.startswith("#")]


def _toml_entries(text: str, path: Path) -> Entries:
    """The tables of the list prompt.subset, each upon the keys they have in common in the table `prompt`."""
    try:
        common = toml.loads(text).get("prompt", {})
    except RecursionError as error:
        raise ValueError(f"--sample_prompts {path}: its tables or lists are nested too deeply") from error
    except (toml.TomlDecodeError, IndexError) as error:  # the toml package lets an IndexError through on some broken files
        raise ValueError(f"--sample_prompts {path} is not valid TOML: {error}; texts must stand in quotes") from error
    if not isinstance(common, dict):
        raise ValueError(f"--sample_prompts {path}: `prompt` must be a table: write [prompt] and [[prompt.subset]]")
    subsets = common.pop("subset", None)
    if subsets is None:
        return [("[prompt]", common)] if common else []
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        raise ValueError(f"--sample_prompts {path}: `prompt.subset` must be a list of tables: write [[prompt.subset]]")
    return [(f"[[prompt.subset]] number {number}", common | subset) for number, subset in enumerate(subsets, 1)]


def _json_entries(text: str, path: Path) -> Entries:
    """A list of texts with inline options, or of objects."""
    try:
        entries = json.loads(text) if text.strip() else []
    except RecursionError as error:
        raise ValueError(f"--sample_prompts {path}: its lists are nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"--sample_prompts {path}, line {error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, (str, dict)) for entry in entries):
        raise ValueError(f'--sample_prompts {path}: it must hold a list of texts or objects, such as ["a cat", {{"prompt": "a dog"}}]')
    return [(f"entry {number}", entry) for number, entry in enumerate(entries, 1)]


READERS = {".txt": _text_entries, ".toml": _toml_entries, ".json": _json_entries}


def _prompt(index: int, keys: Mapping[str, Any], default_size: tuple[int, int], samplers: Collection[str], where: str) -> PreviewPrompt:
    """Raises ValueError for a value that is not of its key's kind."""
    given = {key: value for key, value in keys.items() if value is not None}
    for key, value in given.items():
        if key not in KINDS:
            logger.warning("%s: %s %s, left out", where, key, _why_unknown(key, KINDS))
        elif not isinstance(value, KINDS[key]) or isinstance(value, bool):
            raise ValueError(f"{key} must be {KIND_NAMES[KINDS[key]]}, got {value!r}")
    for key in ("prompt", "negative_prompt"):
        parse_weights(given.get(key, ""))
    seed = given.get("seed", -1)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {seed}")
    return PreviewPrompt(
        index=index,
        prompt=given.get("prompt", ""),
        negative_prompt=given.get("negative_prompt", ""),
        width=_side(given.get("width", default_size[0])),
        height=_side(given.get("height", default_size[1])),
        seed=seed if seed >= 0 else None,
        steps=min(max(given.get("sample_steps", STEPS), 1), MAX_STEPS),
        scale=float(given.get("scale", SCALE)),
        sampler=_sampler(given.get("sample_sampler"), samplers, where),
    )


def _sampler(name: str | None, known: Collection[str], where: str) -> str | None:
    if name is not None and name.strip().lower().removeprefix("k_") not in known:
        logger.warning("%s: there is no sampler %r, --sample_sampler is used; known are %s", where, name, ", ".join(known))
        return None
    return name and name.strip().lower()


def _side(pixels: int) -> int:
    if pixels > LARGEST:
        raise ValueError(f"width and height must be at most {LARGEST} pixels, got {pixels}")
    return max(SMALLEST, pixels - pixels % SIZE_STEP)
