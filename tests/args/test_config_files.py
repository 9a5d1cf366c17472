"""--config_file and --output_config: what is read, converted, left out, refused and written."""

import re
from pathlib import Path

import pytest

from library.args.checks import check
from library.args.config_file import read_config_file
from library.args.errors import BadArguments
from library.args.normalise import normalise
from library.args.parser import setup_parser, typed_values
from library.args.reading import merged_args, read_args
from tests.args.commands import SECTIONED_BLOCK_WEIGHTS_TOML, SECTIONED_PRODIGY_TOML

GUI_FILES = sorted((Path(__file__).parent.parent / "gui_commands").glob("*.toml"))
GUI_EXTRA_ARGV = ["--lr_scheduler_args", "T_max=9", "eta_min=1e-6", "--network_args", "conv_dim=4", "'betas=(0.9,0.99)'"]


def values(path: str, script: str = "train_network") -> dict:
    return read_config_file(path, setup_parser(script)).values


def merged(argv: list[str], script: str = "train_network"):
    parser = setup_parser(script)
    return merged_args(parser, typed_values(parser, argv))


def script_of(path: Path) -> str:
    return "sdxl_train_network" if "sdxl" in path.name else "train_network"


@pytest.mark.parametrize("path", GUI_FILES, ids=lambda path: path.stem)
def test_every_file_of_the_gui_is_read_and_nothing_but_its_fillers_left_out(path):
    config = read_config_file(str(path), setup_parser(script_of(path)))
    assert config.ignored.keys() - {"train_inpainting"} <= {"epoch", "noise_offset_type", "dynamo_backend", "max_token_length"}


@pytest.mark.parametrize("path", GUI_FILES, ids=lambda path: path.stem)
def test_every_file_of_the_gui_passes_the_checks(path, files, config_file):
    text = path.read_text()
    for name, place in files.items():
        text = text.replace(f"{{{name}}}", place.as_posix())
    if "dim_from_weights" in text and "network_weights" not in text:
        text += f"network_weights = '{files['WEIGHTS'].as_posix()}'\n"
    args = merged(["--config_file", config_file(text)], script_of(path))
    normalise(args, script_of(path), ("config_file",))
    try:
        check(args, script_of(path))
    except BadArguments as error:
        assert all("--sample_prompts" in line for line in str(error).split("\n")), error


@pytest.mark.parametrize("text, value", [("true", True), ("false", False), ("'selective'", "selective")])
def test_checkpointing_is_a_switch_that_may_also_say_selective(text, value, config_file):
    assert merged(["--config_file", config_file(f"gradient_checkpointing = {text}")]).gradient_checkpointing == value


def test_literal_quotes_of_the_gui_are_taken_off(config_file):
    args = merged(["--config_file", config_file("network_dim = 4"), *GUI_EXTRA_ARGV])
    normalise(args, "train_network")
    assert args.network_args == ["conv_dim=4", "betas=(0.9,0.99)"]


def test_a_sectioned_notebook_file_is_flattened(config_file):
    found = values(config_file(SECTIONED_PRODIGY_TOML))
    assert (found["unet_lr"], found["optimizer_args"], found["max_token_length"], found["save_last_n_epochs"]) == (
        0.75,
        ["weight_decay=0.1", "betas=[0.9,0.99]"],
        225,
        10,
    )


def test_blanks_inside_an_item_stay(config_file):
    assert values(config_file(SECTIONED_BLOCK_WEIGHTS_TOML))["optimizer_args"][0] == "betas=[0.9, 0.999]"


def test_the_last_of_two_values_holds(config_file):
    assert values(config_file("[a]\nseed = 1\n[b]\nseed = 2\n")) == {"seed": 2}


def test_the_command_line_beats_the_file_and_the_file_the_defaults(config_file):
    args = merged(["--config_file", config_file("seed = 1\nnetwork_dim = 8\n"), "--seed", "2"])
    assert (args.seed, args.network_dim, args.network_alpha) == (2, 8, 1)


def test_a_typed_list_replaces_the_list_of_the_file(config_file):
    args = merged(["--config_file", config_file('network_args = ["conv_dim=4", "conv_alpha=1"]'), "--network_args", "algo=loha"])
    assert args.network_args == ["algo=loha"]


def test_a_switch_of_the_file_stays_on_and_a_typed_one_goes_on(config_file):
    args = merged(["--config_file", config_file("sdpa = true\nflip_aug = false"), "--flip_aug"])
    assert args.sdpa is True and args.flip_aug is True


def test_the_ending_may_be_left_out_and_is_not_recorded(config_file):
    path = config_file("seed = 1")
    args = merged(["--config_file", path.removesuffix(".toml")])
    assert (args.seed, args.config_file) == (1, path.removesuffix(".toml"))


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("text_encoder_lr = 0.75", "text_encoder_lr", [0.75]),
        ("text_encoder_lr = [1.0, 0.5]", "text_encoder_lr", [1.0, 0.5]),
        ('base_weights = "a.safetensors"', "base_weights", ["a.safetensors"]),
        ('network_args = ""', "network_args", None),
        ("persistent_data_loader_workers = 1", "persistent_data_loader_workers", True),
        ("persistent_data_loader_workers = 0", "persistent_data_loader_workers", False),
        ("network_dim = 16.0", "network_dim", 16),
        ('min_bucket_reso = "256"', "min_bucket_reso", 256),
        ('learning_rate = "1e-4"', "learning_rate", 1e-4),
        ('lr_warmup_steps = "10%"', "lr_warmup_steps", 0.1),
        ("lr_warmup_steps = 100.0", "lr_warmup_steps", 100),
        ("lr_warmup_steps = 0.1", "lr_warmup_steps", 0.1),
        ("resolution = 512", "resolution", "512"),
        ("resolution = [768, 512]", "resolution", "768,512"),
        ("output_name = 2024", "output_name", "2024"),
        ("noise_offset = false", "noise_offset", None),
        ('network_dim = ""', "network_dim", None),
        ('save_precision = ""', "save_precision", None),
        ("max_token_length = 150", "max_token_length", 150),
    ],
)
def test_values_of_another_kind_are_converted_where_nothing_is_lost(line, name, value, config_file):
    found = values(config_file(line))[name]
    assert (found, type(found)) == (value, type(value))


def test_whole_numbers_stay_whole_so_that_metadata_reads_the_same(config_file):
    assert str(values(config_file("network_alpha = 8"))["network_alpha"]) == "8"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('network_args = "algo=loha"', 'network_args = ["key=value"'),
        ("optimizer_args = [1, 2]", 'optimizer_args = ["key=value"'),
        ('xformers = "true"', "write true or false without quotes"),
        ("network_dim = 4.5", "takes a whole number"),
        ("network_dim = true", "not true or false"),
        ("output_dir = ['a', 'b']", "takes text"),
        ('learning_rate = "fast"', "takes a number"),
        ("lr_warmup_steps = 'ten'", "a number of steps or a share"),
        ('mixed_precision = "fp8"', 'use one of "no", "fp16", "bf16"'),
        ("max_token_length = 300", "use one of 150, 225"),
        ('sample_sampler = "best"\nsample_every_n_steps = 5', 'use one of "ddim"'),
        ('loss_type = "L3"', 'use one of "l1"'),
    ],
)
def test_values_that_cannot_be_used_are_refused_with_file_key_and_way_out(line, message, config_file):
    path = config_file(line)
    with pytest.raises(BadArguments) as error:
        values(path)
    assert path in str(error.value) and line.partition(" ")[0] in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    "line", ['dynamo_backend = "no"', "max_token_length = 75", "epoch = 3", 'noise_offset_type = "Original"', 'sample_sampler = "best"']
)
def test_fillers_that_nothing_reads_are_left_out(line, config_file):
    config = read_config_file(config_file(line), setup_parser("train_network"))
    assert (config.values, list(config.ignored)) == ({}, [line.partition(" ")[0]])


def test_what_is_left_out_is_told_in_one_line_with_the_name_that_was_meant(config_file, capsys):
    merged(["--config_file", config_file('learnin_rate = 1e-4\nepoch = 1\ndynamo_backend = "no"')])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert "WARNING" in line and "learnin_rate (did you mean learning_rate?), epoch, dynamo_backend = 'no'" in line


def test_only_fillers_of_the_gui_are_no_warning(config_file, capsys):
    merged(["--config_file", config_file("epoch = 1\nmax_token_length = 75")])
    assert "WARNING" not in capsys.readouterr().err


def test_metadata_keys_of_any_name_reach_the_run(config_file):
    assert merged(["--config_file", config_file('metadata_implementation_version = "v1"')]).metadata_implementation_version == "v1"


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes("\ufeffseed = 1\r\nnetwork_args = [\r\n 'a=1',\r\n]\r\n".encode())
    assert values(str(path)) == {"seed": 1, "network_args": ["a=1"]}


@pytest.mark.parametrize(
    ("text", "message"), [("seed = ", "not valid TOML"), ('vae = "C:\\Users\\me"', "Windows paths with /"), ("a = 1\na = 2", "TOML")]
)
def test_a_broken_file_is_named(text, message, config_file):
    path = config_file(text)
    with pytest.raises(BadArguments, match=re.escape(path)) as error:
        values(path)
    assert message in str(error.value)


def test_a_missing_file_ends_with_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        read_args(setup_parser("train_network"), "train_network", ["--config_file", str(tmp_path / "none")])
    assert end.value.code == 1
    assert f"error: --config_file {tmp_path / 'none.toml'} cannot be read" in capsys.readouterr().err


def write_config(path: Path, *argv: str) -> int:
    with pytest.raises(SystemExit) as end:
        read_args(setup_parser("train_network"), "train_network", ["--config_file", str(path), "--output_config", *argv])
    return end.value.code


def test_output_config_writes_what_was_typed_and_differs_from_the_defaults(tmp_path):
    path = tmp_path / "new.toml"
    status = write_config(path, "--seed", "3", "--network_dim=8", "--sdpa", "--network_alpha", "1", "--network_args", "a=1", "b=2")
    assert (status, values(str(path))) == (0, {"seed": 3, "network_dim": 8, "sdpa": True, "network_args": ["a=1", "b=2"]})


def test_output_config_writes_paths_as_text(tmp_path):
    write_config(tmp_path / "new", "--dataset_config", "some/data.toml")
    assert values(str(tmp_path / "new.toml"))["dataset_config"] == Path("some/data.toml")


def test_output_config_keeps_keys_and_tokens_out(tmp_path):
    write_config(tmp_path / "new", "--wandb_api_key", "secret1", "--huggingface_token", "secret2", "--seed", "1")
    assert "secret" not in (tmp_path / "new.toml").read_text()


def test_output_config_overwrites_nothing(config_file, capsys):
    path = config_file("seed = 1")
    assert write_config(Path(path), "--seed", "2") == 1
    assert "exists already" in capsys.readouterr().err and Path(path).read_text() == "seed = 1"


def test_output_config_needs_a_name(capsys):
    with pytest.raises(SystemExit) as end:
        read_args(setup_parser("train_network"), "train_network", ["--output_config"])
    assert end.value.code == 1 and "add --config_file" in capsys.readouterr().err


def test_keys_typed_beside_wandb_are_warned_of(capsys):
    merged(["--log_with", "wandb", "--wandb_api_key", "abc", "--huggingface_token", "def", "--output_dir", "/somewhere"])
    lines = capsys.readouterr().err
    assert "WANDB_API_KEY" in lines and "HF_TOKEN" in lines and "--output_dir" in lines
    assert "abc" not in lines and "def" not in lines


def test_without_wandb_keys_are_not_spoken_of(capsys):
    merged(["--wandb_api_key", "abc", "--output_dir", "/somewhere"])
    assert capsys.readouterr().err == ""
