"""What a --dataset_config file may say: its keys, the tables each may stand in, and the values it takes."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import voluptuous as vol

INTERPOLATIONS = ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box")
OPTION_OF_KEY = {"batch_size": "--train_batch_size", "num_repeats": "--dataset_repeats"}
COMMAND_LINE_ONLY = ("prior_loss_weight", "max_token_length", "cache_latents", "cache_latents_to_disk", "vae_batch_size", "debug_dataset")
DREAMBOOTH, METADATA, CONDITIONING = "dreambooth", "metadata", "conditioning"


def _size(value: Any) -> tuple[int, int]:
    """(width, height) from 512, [512, 768] or the command line's "512,768"."""
    if isinstance(value, str):
        value = [int(part) for part in value.split(",")]
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if len(sides) not in (1, 2) or any(not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError("not a size")
    return sides[0], sides[-1]


def _range(value: Any) -> tuple[float, float]:
    """(low, high) from [1.0, 2.0] or the command line's "1.0,2.0"."""
    bounds = [float(bound) for bound in value.split(",")] if isinstance(value, str) else list(value)
    if len(bounds) != 2 or any(not isinstance(bound, int | float) for bound in bounds) or bounds[0] > bounds[1]:
        raise ValueError("not a range")
    return float(bounds[0]), float(bounds[1])


def _check(allowed: str, *validators: Any) -> Callable[[Any], Any]:
    """A check whose failure says `allowed`; the validators run in turn, each on what the one before gave."""
    return vol.Msg(vol.All(*validators), allowed)


TEXT = _check("text", str)
FLAG = _check("true or false", bool)
WHOLE = _check("a whole number", int, vol.Coerce(int))
POSITIVE = _check("a whole number of at least 1", int, vol.Coerce(int), vol.Range(min=1))
NUMBER = _check("a number", vol.Any(int, float))
FLOAT = _check("a number", vol.Any(int, float), vol.Coerce(float))
SHARE = _check("a number from 0 to 1", vol.Any(int, float), vol.Range(min=0, max=1))
TABLE = _check("a table", dict)
SIZE = _check("a whole number of pixels or [width, height]", vol.Any(int, list, tuple, str), _size)
RANGE = _check("[low, high], two numbers with low <= high", vol.Any(list, tuple, str), _range)
INTERPOLATION = _check(f"one of {', '.join(INTERPOLATIONS)}", str, vol.In(INTERPOLATIONS))


@dataclass(frozen=True)
class Key:
    """check: turns the value given into ours, or raises. tables: any of G (general), D (dataset), S (subset).

    kinds: the subsets that may carry it; empty for keys of the data set itself.
    """

    check: Callable[[Any], Any]
    tables: str
    kinds: tuple[str, ...] = (DREAMBOOTH, METADATA, CONDITIONING)


KEYS = {
    "resolution": Key(SIZE, "GD", ()),
    "batch_size": Key(POSITIVE, "GD", ()),
    "enable_bucket": Key(FLAG, "GD", ()),
    "min_bucket_reso": Key(POSITIVE, "GD", ()),
    "max_bucket_reso": Key(POSITIVE, "GD", ()),
    "bucket_reso_steps": Key(POSITIVE, "GD", ()),
    "bucket_no_upscale": Key(FLAG, "GD", ()),
    "network_multiplier": Key(FLOAT, "GD", ()),
    "skip_image_resolution": Key(SIZE, "GD", ()),
    "validation_split": Key(FLOAT, "GDS"),
    "validation_seed": Key(WHOLE, "GDS"),
    "resize_interpolation": Key(INTERPOLATION, "GDS"),
    "num_repeats": Key(WHOLE, "GDS"),
    "shuffle_caption": Key(FLAG, "GDS"),
    "caption_separator": Key(_check("text that is not empty", str, vol.Length(min=1)), "GDS"),
    "keep_tokens": Key(WHOLE, "GDS"),
    "keep_tokens_separator": Key(TEXT, "GDS"),
    "secondary_separator": Key(TEXT, "GDS"),
    "enable_wildcard": Key(FLAG, "GDS"),
    "caption_prefix": Key(TEXT, "GDS"),
    "caption_suffix": Key(TEXT, "GDS"),
    "caption_dropout_rate": Key(SHARE, "GDS"),
    "caption_dropout_every_n_epochs": Key(WHOLE, "GDS"),
    "caption_tag_dropout_rate": Key(SHARE, "GDS"),
    "token_warmup_min": Key(WHOLE, "GDS"),
    "token_warmup_step": Key(NUMBER, "GDS"),
    "color_aug": Key(FLAG, "GDS"),
    "flip_aug": Key(FLAG, "GDS"),
    "random_crop": Key(FLAG, "GDS"),
    "face_crop_aug_range": Key(RANGE, "GDS"),
    "custom_attributes": Key(TABLE, "GDS"),
    "caption_extension": Key(TEXT, "GDS", (DREAMBOOTH, CONDITIONING)),
    "cache_info": Key(FLAG, "GDS", (DREAMBOOTH, CONDITIONING)),
    "class_tokens": Key(TEXT, "GDS", (DREAMBOOTH,)),
    "is_reg": Key(FLAG, "S", (DREAMBOOTH,)),
    "alpha_mask": Key(FLAG, "S", (DREAMBOOTH, METADATA)),
    "image_dir": Key(TEXT, "S"),
    "metadata_file": Key(TEXT, "S", (METADATA,)),
    "conditioning_data_dir": Key(TEXT, "S", (CONDITIONING,)),
}
REQUIRED = {DREAMBOOTH: ("image_dir",), METADATA: ("metadata_file",), CONDITIONING: ("image_dir", "conditioning_data_dir")}
TABLE_NAMES = {"G": "[general]", "D": "[[datasets]]", "S": "[[datasets.subsets]]"}
NESTED = {"G": ("datasets",), "D": ("subsets",), "S": ()}


def subset_kind(subset: dict) -> str:
    """How the images of a subset table are found: by folder, by metadata file, or in pairs with masks."""
    if "conditioning_data_dir" in subset:
        return CONDITIONING
    return METADATA if "metadata_file" in subset else DREAMBOOTH


def allowed_keys(table: str, kind: str | None = None) -> dict[str, Key]:
    """The keys a table of letter G, D or S takes; for subsets only those of its kind."""
    return {name: key for name, key in KEYS.items() if table in key.tables and (kind is None or kind in key.kinds)}


def check_table(given: dict, table: str, kind: str | None = None) -> tuple[dict, list[str]]:
    """The table's values in our types (as given if there are mistakes), and a sentence for each mistake in it.

    Values of None (null in JSON) count as not given. Keys in NESTED are checked by the caller.
    """
    given = {key: value for key, value in given.items() if value is not None and key not in NESTED[table]}
    allowed = allowed_keys(table, kind)
    required = REQUIRED[kind] if kind else ()
    schema = {(vol.Required if name in required else vol.Optional)(name): key.check for name, key in allowed.items()}
    try:
        return vol.Schema(schema)(given), []
    except vol.MultipleInvalid as mistakes:
        return given, [_sentence(mistake, given, allowed, table) for mistake in mistakes.errors]


def check_options(defaults: dict) -> tuple[dict, list[str]]:
    """The command line's values for our keys, in our types, and a sentence for each that cannot be used."""
    values, mistakes = {}, []
    for name, key in KEYS.items():
        if defaults.get(name) is None or (key.tables == "S" and name != "alpha_mask"):
            continue
        try:
            values[name] = vol.Schema(key.check)(defaults[name])
        except vol.Invalid as mistake:
            option = OPTION_OF_KEY.get(name, f"--{name}")
            mistakes.append(f"{option} {_shown(defaults[name])} is not allowed: it must be {mistake.msg}")
    return values, mistakes


def _sentence(mistake: vol.Invalid, given: dict, allowed: dict[str, Key], table: str) -> str:
    name = str(mistake.path[0])
    if name not in given:
        return f"{name} is missing"
    if name in allowed:
        return f"{name} = {_shown(given[name])} is not allowed: it must be {mistake.msg}"
    return f"unknown key {name!r} (given {_shown(given[name])}){_hint(name, allowed, table)}"


def _hint(name: str, allowed: dict[str, Key], table: str) -> str:
    if f"--{name}" in OPTION_OF_KEY.values():
        return ": in this file it is called " + next(key for key, option in OPTION_OF_KEY.items() if option == f"--{name}")
    if name in COMMAND_LINE_ONLY:
        return f": it can only be given on the command line, --{name}"
    if name in KEYS and table not in KEYS[name].tables:
        return ": it belongs in " + " or ".join(TABLE_NAMES[letter] for letter in KEYS[name].tables)
    if name in KEYS:
        return f": only for subsets of the kind {' or '.join(KEYS[name].kinds)}"
    near = difflib.get_close_matches(name, [*allowed, *NESTED[table]], 1)
    return f": did you mean {near[0]!r}?" if near else f"; known here: {', '.join(sorted(allowed))}"


def _shown(value: Any) -> str:
    """The value as TOML and JSON write it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
