"""Options that a sweep varies: from `--vary NAME=VALUE,VALUE` to one command line for each combination, checked before any run starts.

    network_dim=4,16                                  one option
    optimizer_type+learning_rate=AdamW:1e-4,Lion:1e-5 several together: the first values of all, then the second ones
    resolution='512,768',640                          a value that holds a comma or colon stands in quotes
    scale_weight_norms=,1                             an empty value leaves the option out
    gradient_checkpointing=on,off                     a switch
    network_args='conv_dim=4 conv_alpha=1',''         an option of several values: blanks part them
"""

import hashlib
import itertools
import re
from argparse import Action, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from library.args.checks import check
from library.args.config_file import read_config_file
from library.args.errors import BadArguments
from library.args.normalise import normalise
from library.args.parser import TrainingParser, default_values, is_flag, options_of, setup_parser, typed_values

SET_BY_THE_SWEEP = ("output_dir", "output_name", "logging_dir", "resume")
NO_TRAINING = ("output_config", "debug_dataset", "lr_scheduler_preview")
"""Options with which a training script writes something else and ends."""
SECRETS = {"wandb_api_key": "WANDB_API_KEY", "huggingface_token": "HF_TOKEN"}
"""Options with keys -> the environment variable that does the same; a sweep writes its command lines into files."""
SWITCH_WORDS = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False, "": False}
LONGEST_NAME = 60
"""It stands twice in the paths of a run's files, and Windows allows 260 signs in all."""

Values = Mapping[str, str]
"""Option -> its value as text, "" where the option is left out."""


@dataclass(frozen=True)
class Variation:
    """One run of a sweep. arguments: the training script's, without what the sweep sets itself. options: the same, read."""

    name: str
    values: Values
    arguments: tuple[str, ...]
    options: Namespace


def variations(script: str, base: Sequence[str], varied: Sequence[str]) -> list[Variation]:
    """Every combination of the values in `varied`, texts of --vary, the last one changing fastest.

    script: a name in library.args.parser.SCRIPTS; base: arguments that all runs have. Raises BadArguments for what cannot work.
    """
    parser = setup_parser(script)
    parser.error = _refuse
    axes = [_axis(text, parser) for text in varied]
    names = [name for axis in axes for name in axis[0]]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadArguments(f"--vary: {', '.join(sorted(twice))} is varied twice: put all its values into one --vary")
    combinations = [dict(itertools.chain(*(part.items() for part in parts))) for parts in itertools.product(*axes)]
    made = [_variation(values, base, parser, script) for values in combinations]
    same = {one.name for one in made if [other.name for other in made].count(one.name) > 1}
    if same:
        raise BadArguments(f"--vary: a value stands there twice: {', '.join(sorted(same))}")
    return made


def _refuse(message: str) -> None:
    raise BadArguments(message)


def _axis(text: str, parser: TrainingParser) -> list[Values]:
    """The values of one --vary, those varied together side by side."""
    left, equals, right = text.partition("=")
    names = [name.strip().removeprefix("--") for name in left.split("+")]
    if not equals:
        raise BadArguments(f"--vary {text}: write NAME=VALUE,VALUE, such as --vary network_dim=4,16")
    for name in names:
        _check_name(name, parser)
    axis = []
    for item in split_unquoted(right, ","):
        values = split_unquoted(item, ":") if len(names) > 1 else [item]
        if len(values) != len(names):
            raise BadArguments(f"--vary {text}: {item!r} has {len(values)} values for {len(names)} options: part them by colons")
        axis.append({name: _unquoted(value) for name, value in zip(names, values, strict=True)})
    return axis


def _check_name(name: str, parser: TrainingParser) -> None:
    known = options_of(parser)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise BadArguments(f"--vary {name}: {parser.prog} has no such option" + (f"; did you mean {near[0]}?" if near else ""))
    if name in (*SET_BY_THE_SWEEP, *NO_TRAINING, "config_file"):
        raise BadArguments(f"--vary {name}: this option cannot be varied, each run of a sweep has its own folder and name")


def split_unquoted(text: str, separator: str) -> list[str]:
    """Parts of `text` between separators that stand outside quotes; quotes stay. Raises BadArguments for one that is not closed."""
    parts, quote = [""], ""
    for sign in text:
        if sign == separator and not quote:
            parts.append("")
            continue
        parts[-1] += sign
        if sign == quote:
            quote = ""
        elif sign in "'\"" and not quote:
            quote = sign
    if quote:
        raise BadArguments(f"--vary ...={text}: the quote {quote} is not closed; a value that holds one stands in quotes of the other kind")
    return parts


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _variation(values: Values, base: Sequence[str], parser: TrainingParser, script: str) -> Variation:
    name = run_name(values)
    arguments = without_options(base, parser, {*values, *SET_BY_THE_SWEEP})
    try:
        for option, value in values.items():
            arguments += _typed(options_of(parser)[option], value)
        options = _checked(arguments, parser, script)
        _check_left_out(values, options, parser)
    except BadArguments as mistake:
        raise BadArguments(f"run {name}: {mistake}") from mistake
    return Variation(name, values, tuple(arguments), options)


def without_options(argv: Sequence[str], parser: TrainingParser, names: Iterable[str]) -> list[str]:
    """The command line without these options and their values."""
    kept, dropping = [], False
    for word in argv:
        if word.startswith("--"):
            option = parser.find_option(word.partition("=")[0])
            dropping = option is not None and option.dest in names
        if not dropping:
            kept.append(word)
    return kept


def _typed(option: Action, value: str) -> list[str]:
    """The words that give `option` this value."""
    name = option.option_strings[0]
    if is_flag(option):
        if value.lower() not in SWITCH_WORDS:
            raise BadArguments(f"{name} {value}: this is a switch, its values are on and off")
        return [name] if SWITCH_WORDS[value.lower()] else []
    if value == "":
        return []
    return [name, *value.split()] if option.nargs in ("*", "+") else [f"{name}={value}"]


def _checked(arguments: list[str], parser: TrainingParser, script: str) -> Namespace:
    """The options as a run reads them. Raises BadArguments as a run would end."""
    typed = typed_values(parser, arguments)
    config = read_config_file(typed["config_file"], parser).values if typed.get("config_file") else {}
    options = Namespace(**default_values(parser) | config | typed)
    other = [name for name in NO_TRAINING if getattr(options, name)]
    if other:
        raise BadArguments(f"--{other[0]} ends the program without training: leave it out of a sweep")
    for name, variable in SECRETS.items():
        if getattr(options, name):
            raise BadArguments(f"--{name}: a sweep writes its command lines into files, so set {variable} in the environment instead")
    options.output_dir = options.output_dir or "."
    options.logging_dir = options.logging_dir or "."
    normalise(options, script, typed)
    check(options, script)
    return options


def _check_left_out(values: Values, options: Namespace, parser: TrainingParser) -> None:
    """Raises BadArguments where an option is left out, or a switch off, but the config file gives it."""
    typed = typed_values(parser, [word for name, value in values.items() for word in _typed(options_of(parser)[name], value)])
    given = read_config_file(options.config_file, parser).values if options.config_file else {}
    for name in values:
        if name not in typed and given.get(name) not in (None, False):
            raise BadArguments(f"{name} cannot be left out, {options.config_file} gives it: take it out of that file")


def run_name(values: Values) -> str:
    """A name for files and folders on any system; the same for the same values."""
    text = "_".join(f"{name}={value or 'none'}" for name, value in values.items())
    name = re.sub(r"[^\w.=+-]", "-", text)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
