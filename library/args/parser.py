"""The command line of each training script, put together from the option groups beside this file.

As in sd-scripts any unambiguous beginning of an option's name will do (`--max_train_epoch 50`).
"""

import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Container, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from library.args.caching import add_caching_arguments
from library.args.config import add_config_arguments
from library.args.dataset import add_dataset_arguments
from library.args.deepspeed import add_deepspeed_arguments
from library.args.hub import add_hub_arguments
from library.args.lr_scheduler import add_lr_scheduler_arguments
from library.args.model import add_model_arguments
from library.args.model_metadata import add_model_metadata_arguments
from library.args.network import add_network_arguments
from library.args.noise_and_loss import add_noise_and_loss_arguments
from library.args.optimizer import add_optimizer_arguments
from library.args.ours import TITLE as NEW_OPTIONS
from library.args.ours import add_our_arguments
from library.args.previews import add_preview_arguments
from library.args.saving import add_saving_arguments
from library.args.sdxl import add_sdxl_arguments
from library.args.tracking import add_tracking_arguments
from library.args.training import add_training_arguments
from library.args.validation import add_validation_arguments

NEAR = 0.75  # how alike a name must be to be meant
LAUNCHERS = ("num_cpu_threads_per_process", "num_processes", "num_machines", "multi_gpu", "gpu_ids", "main_process_port")
SETTINGS = ("weight_decay", "betas", "eps", "momentum", "d_coef", "use_bias_correction", "safeguard_warmup", "relative_step")
ELSEWHERE = {
    **{f"--{name}": "it is accelerate's: write it between `accelerate launch` and the script" for name in LAUNCHERS},
    **{f"--{name}": f"it is the optimizer's: --optimizer_args {name}=..." for name in SETTINGS},
}
"""Names that are options of something else -> what to do."""

LORA_GROUPS = (
    add_model_arguments,
    add_dataset_arguments,
    add_caching_arguments,
    add_network_arguments,
    add_optimizer_arguments,
    add_lr_scheduler_arguments,
    add_training_arguments,
    add_noise_and_loss_arguments,
    add_saving_arguments,
    add_model_metadata_arguments,
    add_preview_arguments,
    add_validation_arguments,
    add_tracking_arguments,
    add_hub_arguments,
    add_deepspeed_arguments,
    add_config_arguments,
    add_our_arguments,
)

SCRIPTS = {
    "train_network": ("Train a LoRA or another network on Stable Diffusion 1.x or 2.x.", LORA_GROUPS),
    "sdxl_train_network": ("Train a LoRA or another network on Stable Diffusion XL.", (*LORA_GROUPS, add_sdxl_arguments)),
}


def setup_parser(script: str) -> ArgumentParser:
    """The parser of a training script: a name in SCRIPTS."""
    description, groups = SCRIPTS[script]
    parser = TrainingParser(prog=f"{script}.py", usage="%(prog)s [options]", description=description)
    for add_arguments in groups:
        add_arguments(parser)
    return parser


def options_of(parser: ArgumentParser) -> dict[str, Action]:
    """The parser's options by the name of their value, help left out."""
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def is_flag(option: Action) -> bool:
    """Whether the option takes no value."""
    return option.nargs == 0


def is_flag_with_choices(option: Action) -> bool:
    """Whether the option is a flag that may be followed by one of a few words."""
    return option.nargs == "?" and option.const is True


def default_values(parser: ArgumentParser) -> dict[str, Any]:
    return {name: option.default for name, option in options_of(parser).items()}


def typed_values(parser: ArgumentParser, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Only the values that stand on the command line, converted; `argv` is the program's own by default.

    Ends the program with status 2 and a message when the command line cannot be read.
    """
    absent = object()
    namespace = parser.parse_args(argv, Namespace(**dict.fromkeys(options_of(parser), absent)))
    return {name: value for name, value in vars(namespace).items() if value is not absent}


def sdxl_options() -> Container[str]:
    """The names of those that only SDXL's script has."""
    alone = ArgumentParser(add_help=False)
    add_sdxl_arguments(alone)
    return alone._option_string_actions


class TrainingParser(ArgumentParser):
    """An ArgumentParser whose errors are two lines instead of two hundred options, and name the option that was meant."""

    def parse_args(self, args=None, namespace=None):
        argv = sys.argv[1:] if args is None else list(args)
        self._refuse_values_of_flags(argv)
        namespace, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            self.error(self._unknown_message(unknown[0], argv))
        return namespace

    def _get_option_tuples(self, option_string: str) -> list:
        """What argparse takes a shortened option for: never for a new one, so that old command lines mean what they meant."""
        return [found for found in super()._get_option_tuples(option_string) if found[0] not in self._new_options()]

    def _new_options(self) -> list[Action]:
        return [action for group in self._action_groups if group.title == NEW_OPTIONS for action in group._group_actions]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nSee {self.prog} --help for all options.\n")

    def _names(self) -> list[str]:
        return list(self._option_string_actions)

    def _refuse_values_of_flags(self, argv: list[str]) -> None:
        for text in argv:
            name, equals, value = text.partition("=")
            option = self.find_option(name)
            if equals and option is not None and is_flag(option):
                self.error(
                    f"{name} is a switch and takes no value, but was given {value!r}: "
                    f"write {name} alone to switch it on, leave it out to keep it off"
                )

    def find_option(self, name: str) -> Action | None:
        """The option that `name`, maybe shortened, stands for; None if none or several."""
        if name in self._option_string_actions:
            return self._option_string_actions[name]
        old = [full for full, option in self._option_string_actions.items() if option not in self._new_options()]
        meant = [full for full in old if name.startswith("--") and len(name) > 2 and full.startswith(name)]
        return self._option_string_actions[meant[0]] if len(meant) == 1 else None

    def _unknown_message(self, unknown: str, argv: list[str]) -> str:
        if not unknown.startswith("-"):
            place = argv.index(unknown)
            before = argv[place - 1] if place else ""
            option = self.find_option(before)
            if option is not None and is_flag(option):
                return f"{before} is a switch and takes no value: leave {unknown!r} away"
            return f"unexpected {unknown!r}: every value must follow its --option; values with blanks need quotes"
        name = unknown.partition("=")[0]
        if name in ELSEWHERE:
            return f"unrecognized arguments: {name}; {ELSEWHERE[name]}"
        if name in sdxl_options():
            return f"unrecognized arguments: {name}; sdxl_train_network.py alone has it"
        near = get_close_matches(name, self._names(), n=1, cutoff=NEAR)
        return f"unrecognized arguments: {name}" + (f"; did you mean {near[0]}?" if near else "")
