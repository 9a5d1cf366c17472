"""From what the user typed to a python class and its keyword arguments.

Shared by optimizers and learning-rate schedulers: both take a name or dotted path and a list of `key=value` items.
"""

import ast
import difflib
import importlib
import inspect
from typing import Any

from library.strangers import strangers_code

PIP_NAMES = {"lion_pytorch": "lion-pytorch", "prodigyplus": "prodigy-plus-schedule-free"}  # where import and pip names differ


class MissingPackage(ImportError, ValueError):
    """A package that an option needs is not installed. The message names both."""


def parse_arguments(items: list[str] | None, option: str) -> dict[str, Any]:
    """Keyword arguments from `key=value` items; values are Python literals: `0.1`, `True`, `None`, `'text'`, `0.9,0.99`.

    Blanks around key and value are ignored, and a later item wins over an earlier one of the same key.
    Raises ValueError naming `option` and the item.
    """
    arguments = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key.isidentifier():
            raise ValueError(f"{option} takes items of the form key=value, got {item!r}")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"{option}: the value in {_shortened(item)} is not a Python literal; write numbers as 0.1 or 1e-6, lists as 0.9,0.99, "
                "switches as True or False, and put quotes around text, as in key='text'"
            ) from error
    return arguments


def load_class(dotted: str, option: str, value: str) -> type:
    """The class at `package.module.Class`.

    Raises MissingPackage naming it and how to install it, ValueError when the package has no such class or cannot be imported.
    """
    module_name, _, class_name = dotted.rpartition(".")
    with strangers_code(f"{option} {value}: importing {module_name}", "Install the package anew, or choose another one"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            module, absent = None, missing.name
    if module is None:
        package = absent.partition(".")[0]
        raise MissingPackage(
            f"{option} {value} needs the package {package!r}, which is not installed: pip install {PIP_NAMES.get(package, package)}",
            name=absent,
        )
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        package = module_name.partition(".")[0]
        raise ValueError(
            f"{option} {value}: {module_name} has no class {class_name}; check the spelling (upper and lower case count), "
            f"or update the package: pip install -U {PIP_NAMES.get(package, package)}"
        )
    return found


def check_arguments(found: type, arguments: dict[str, Any], option: str, reserved: dict[str, str]) -> None:
    """Raises ValueError for keys that the class's constructor does not take, or needs and did not get, before it is called.

    reserved: parameters that other options set, key to that option's name ("" for those no option sets).
    """
    for key in arguments.keys() & reserved.keys():
        by = f"it is set by {reserved[key]}" if reserved[key] else "it is set by the trainer"
        raise ValueError(f"{option} {key}={arguments[key]!r}: {by}, leave it out here")
    parameters = inspect.signature(found).parameters.values()
    named = [item for item in parameters if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL) and item.name not in reserved]
    allowed = [item.name for item in named]
    open_ended = any(item.kind is item.VAR_KEYWORD for item in parameters)
    for key, value in arguments.items():
        if key not in allowed and not open_ended:
            raise ValueError(
                f"{option} {key}={value!r}: {found.__name__} has no argument {key!r}{nearest(key, allowed)}; it takes {', '.join(allowed)}"
            )
    missing = [item.name for item in named if item.default is item.empty and item.name not in arguments]
    if missing:
        raise ValueError(f"{option}: {found.__name__} needs {', '.join(missing)}, as in {option} {missing[0]}=...")


def nearest(word: str, words: list[str]) -> str:
    """A hint at the word that was probably meant, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
