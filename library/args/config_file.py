"""`--config_file` and `--output_config`: options read from, and written to, a TOML file.

Keys are option names. Tables only group them: `[any_name]` counts for nothing, and of a key that stands in several the last
one holds. Files written by the kohya_ss GUI and by notebooks carry keys and values that no option has; they are left out,
and told to the caller, instead of being an error.
"""

import json
from argparse import Action, ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import toml

from library.args.errors import BadArguments
from library.args.lr_scheduler import int_or_float
from library.args.names import KEY_VALUE_LISTS
from library.args.parser import default_values, is_flag, is_flag_with_choices, options_of
from library.files import written_whole

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = toml

NEVER_WRITTEN = ("config_file", "output_config", "wandb_api_key", "huggingface_token")
COMMAND_LINE_ONLY = ("config_file", "output_config")
COMMA_LISTS = ("resolution", "skip_image_resolution", "face_crop_aug_range")

# What the GUI writes into every file although no option takes it.
GUI_FILLERS = {"epoch", "noise_offset_type", "dynamo_backend", "max_token_length"}
# Options whose value nothing reads unless one of the others is set: a value outside their choices is then no error.
READ_ONLY_WITH = {
    "dynamo_backend": ("torch_compile",),
    "zero_stage": ("deepspeed",),
    "sample_sampler": ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"),
}


@dataclass
class ConfigFile:
    """What a file says. values: by option name, of the kind the option takes. ignored: keys and values left out, as text."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def ignored_only_fillers(self) -> bool:
        return self.ignored.keys() <= GUI_FILLERS


def toml_path(name: str) -> Path:
    """The file meant by --config_file: `.toml` may be left out."""
    return Path(name if name.endswith(".toml") else f"{name}.toml")


def read_config_file(name: str, parser: ArgumentParser) -> ConfigFile:
    """Reads the options in a TOML file. Raises BadArguments for a file or a value that cannot be used, naming both."""
    config = ConfigFile(toml_path(name))
    options = options_of(parser)
    given = _flattened(_parsed(config.path))
    for key, value in given.items():
        option = options.get(key)
        if option is None and key.startswith("metadata_"):
            config.values[key] = value
        elif option is None or key in COMMAND_LINE_ONLY:
            config.ignored[key] = _unknown(key, list(options))
        elif _is_filler(option, value, given):
            config.ignored[key] = f"{key} = {value!r}"
        else:
            config.values[key] = _converted(option, value, config.path)
    return config


def write_config_file(name: str, values: Mapping[str, Any], parser: ArgumentParser) -> Path:
    """Writes the values that differ from their defaults, keys and tokens left out. Raises BadArguments if the file exists."""
    path = toml_path(name)
    if path.exists():
        raise BadArguments(f"--output_config: {path} exists already: delete it, or give --config_file another name")
    defaults = default_values(parser)
    kept = {key: value for key, value in values.items() if key not in NEVER_WRITTEN and value != defaults.get(key)}
    with written_whole(path) as temporary:
        temporary.write_text(
            toml.dumps({key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}), encoding="utf-8"
        )
    return path


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadArguments(f"--config_file {path} is not UTF-8 text ({error}): save it again as UTF-8") from error
    except OSError as error:
        raise BadArguments(
            f"--config_file {path} cannot be read ({error.strerror}): give the path of a TOML file, relative to {Path.cwd()} or absolute"
        ) from error
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise BadArguments(f"--config_file {path}: its tables or lists are nested too deeply") from error
    except (ValueError, IndexError) as error:  # the toml package lets an IndexError through on some broken files
        hint = "; write Windows paths with / or in 'single quotes'" if "\\" in text else ""
        raise BadArguments(f"--config_file {path} is not valid TOML: {error}{hint}") from error


def _flattened(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _unknown(key: str, names: list[str]) -> str:
    near = [] if key in GUI_FILLERS else get_close_matches(key, names, n=1, cutoff=0.8)
    return f"{key} (did you mean {near[0]}?)" if near else key


def _is_filler(option: Action, value: Any, given: Mapping[str, Any]) -> bool:
    if option.dest == "max_token_length":
        return value == 75
    unread = option.dest in READ_ONLY_WITH and not any(given.get(name) for name in READ_ONLY_WITH[option.dest])
    return unread and value not in option.choices


def _converted(option: Action, value: Any, path: Path) -> Any:
    """`value` as the option takes it. Raises BadArguments, naming what is allowed, if that would lose anything."""
    try:
        if is_flag_with_choices(option) and value in (True, False):
            return bool(value)
        if is_flag(option):
            result = _switch(value)
        elif option.nargs == "*":
            result = _list(option, value)
        else:
            result = _single(option, value)
    except ValueError as error:
        raise BadArguments(f"{path}: {option.dest} = {_as_toml(value)}: {error}") from error
    if option.choices is not None and result not in option.choices:
        allowed = ", ".join(_as_toml(choice) for choice in option.choices if choice is not None)
        raise BadArguments(f"{path}: {option.dest} = {_as_toml(value)}: use one of {allowed}, or leave the line out")
    return result


def _switch(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError("this is a switch, write true or false without quotes")
    return bool(value)


def _list(option: Action, value: Any) -> list | None:
    if value is False or value == "":
        return None
    if option.dest in KEY_VALUE_LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ValueError(f'this takes a list of texts, such as {option.dest} = ["key=value", "other=1"]')
    return [_number_or_text(option.type, item) for item in (value if isinstance(value, list) else [value])]


def _single(option: Action, value: Any) -> Any:
    if option.dest in COMMA_LISTS and isinstance(value, list):
        return ",".join(str(item) for item in value)
    if (value is False and option.default is None) or (value == "" and (option.type is not str or option.choices)):
        return option.default
    return _number_or_text(option.type, value)


def _number_or_text(kind: Any, value: Any) -> Any:
    """`value` as an int, float, share-or-count, path or text, where the conversion keeps all of it."""
    if isinstance(value, (bool, list, dict)):
        raise ValueError(f"this takes {NAMES_OF_KINDS[kind]}, not {'true or false' if isinstance(value, bool) else 'a list or table'}")
    if kind in (str, Path):
        return kind(str(value))
    if isinstance(value, float) and value.is_integer() and (kind is int or (kind is int_or_float and value > 1)):
        return int(value)
    if isinstance(value, (int, float)) and (kind is not int or isinstance(value, int)):
        return value
    if not isinstance(value, str):
        raise ValueError(f"this takes {NAMES_OF_KINDS[kind]}")
    try:
        return kind(value)
    except (ValueError, ArgumentTypeError):
        raise ValueError(f"this takes {NAMES_OF_KINDS[kind]}") from None


NAMES_OF_KINDS = {
    int: "a whole number",
    float: "a number",
    int_or_float: "a number of steps or a share below 1",
    str: "text",
    Path: "a path",
}


def _as_toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
