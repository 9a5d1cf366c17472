"""The command lines are those of sd-scripts: data/*.json lists every option its parsers had in February 2026."""

import json
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

from library.args.lr_scheduler import int_or_float
from library.args.parser import SCRIPTS, default_values, options_of, setup_parser, typed_values
from tests.args.commands import SDXL_TRAIN_NETWORK, TRAIN_NETWORK

DATA = Path(__file__).parent / "data"
NEW_OPTIONS = {
    "strict_compat", "skip_image_resolution", "skip_bad_images", "no_image_index", "nan_guard", "nan_guard_patience",
    "text_encoder_cache_variants", "lr_scheduler_preview", "blocks_to_swap", "vae_slicing", "vae_tiling", "attention",
    "cuda_graph",
}  # fmt: skip


FLAGS_WITH_A_WORD = ("gradient_checkpointing",)


def recorded(script: str) -> list[dict]:
    return json.loads((DATA / f"{script}.json").read_text())


def described(option) -> dict:
    """The option as the recordings have it. One that may also be followed by a word of ours is the flag that it was."""
    if option.dest in FLAGS_WITH_A_WORD:
        assert (option.nargs, option.const, option.default) == ("?", True, False)
        option = ArgumentParser().add_argument(*option.option_strings, action="store_true")
    kinds = {"_StoreAction": "store", "_StoreTrueAction": "store_true"}
    action = kinds[type(option).__name__]
    return {
        "option_strings": list(option.option_strings),
        "dest": option.dest,
        "action": action,
        "type": option.type.__name__ if action == "store" and option.type else None,
        "nargs": option.nargs,
        "default": option.default,
        "const": option.const,
        "choices": option.choices,
        "required": option.required,
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_recorded_option_is_there_unchanged(script):
    ours = {name: described(option) for name, option in options_of(setup_parser(script)).items()}
    assert {option["dest"]: ours.get(option["dest"]) for option in recorded(script)} == {
        option["dest"]: option for option in recorded(script)
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_the_new_options_are_added(script):
    assert options_of(setup_parser(script)).keys() - {option["dest"] for option in recorded(script)} == NEW_OPTIONS


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_have_the_recorded_kind_too(script):
    ours = default_values(setup_parser(script))
    assert [(name, type(ours[name])) for name in (o["dest"] for o in recorded(script))] == [
        (o["dest"], type(o["default"])) for o in recorded(script)
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_shortened_option_means_what_it_meant(script):
    names = [name for option in recorded(script) for name in option["option_strings"]] + ["--help"]
    parser = setup_parser(script)
    changed = []
    for name in names:
        for length in range(3, len(name)):
            if [full for full in names if full.startswith(name[:length])] == [name] and name[:length] not in names:
                meant = parser.find_option(name[:length])
                if meant is None or name not in meant.option_strings:
                    changed.append(name[:length])
    assert not changed


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_explained_in_one_line_with_its_default(script):
    needed = {"pretrained_model_name_or_path", "train_data_dir", "output_dir", "network_module", "resolution"}
    unclear = [
        name
        for name, option in options_of(setup_parser(script)).items()
        if not option.help or "\n" in option.help or ("(default: " not in option.help and name not in needed)
    ]
    assert not unclear


def test_help_can_be_printed():
    assert "--network_dim RANK" in setup_parser("train_network").format_help()


@pytest.mark.parametrize("name", TRAIN_NETWORK)
def test_real_train_network_command_lines_are_read(name):
    assert typed_values(setup_parser("train_network"), shlex.split(TRAIN_NETWORK[name]))


@pytest.mark.parametrize("name", SDXL_TRAIN_NETWORK)
def test_real_sdxl_command_lines_are_read(name):
    assert typed_values(setup_parser("sdxl_train_network"), shlex.split(SDXL_TRAIN_NETWORK[name]))


def test_a_list_given_twice_is_replaced_not_extended():
    typed = typed_values(setup_parser("train_network"), shlex.split(TRAIN_NETWORK["network_args twice"]))
    assert typed["network_args"] == ["preset=full", "conv_dim=16", "conv_alpha=10", "algo=lokr", "train_norm=False"]


def test_options_that_are_not_typed_are_not_reported_as_typed():
    assert typed_values(setup_parser("train_network"), ["--seed", "7", "--sdpa"]) == {"seed": 7, "sdpa": True}


@pytest.mark.parametrize(
    ("text", "number"), [("100", 100), ("0.1", 0.1), ("10%", 0.1), ("0", 0.0), ("1", 1), ("250%", 2.5)], ids=lambda item: str(item)
)
def test_step_counts_are_whole_and_shares_are_fractions(text, number):
    assert (int_or_float(text), type(int_or_float(text))) == (number, type(number))


@pytest.mark.parametrize("text", ["1.5", "1.0", "ten", "%"])
def test_other_step_counts_end_with_status_2(text, capsys):
    with pytest.raises(SystemExit) as end:
        setup_parser("train_network").parse_args(["--lr_warmup_steps", text])
    assert end.value.code == 2
    assert "whole number of steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rat3", "1"], "did you mean --learning_rate?"),
        (["--optimiser_type=AdamW"], "did you mean --optimizer_type?"),
        (["--weight_decay", "0.1"], "--optimizer_args weight_decay=..."),
        (["--cache_text_encoder_outputs"], "sdxl_train_network.py alone has it"),
        (["--num_cpu_threads_per_process", "2"], "between `accelerate launch` and the script"),
        (["--cache_text_encoder_outputs"], "unrecognized arguments: --cache_text_encoder_outputs"),
        (["--xformers=true"], "--xformers is a switch and takes no value"),
        (["--highv=true"], "takes no value"),
        (["--xformers", "true"], "leave 'true' away"),
        (["--training_comment", "two", "words"], "unexpected 'words'"),
        (["--mixed_precision", "fp8"], "invalid choice"),
        (["--sample_every", "1"], "ambiguous option"),
    ],
)
def test_an_unreadable_command_line_ends_with_status_2_and_a_hint(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        setup_parser("train_network").parse_args(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error and error.count("\n") == 2
