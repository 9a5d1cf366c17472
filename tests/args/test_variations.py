"""What --vary of tools/sweep.py means: combinations, quotes, and mistakes told before anything starts."""

import pytest

from library.args.errors import BadArguments
from library.args.variations import run_name, split_unquoted, variations


@pytest.fixture
def base(tmp_path) -> list[str]:
    (tmp_path / "images").mkdir()
    return [
        "--pretrained_model_name_or_path", str(tmp_path), "--train_data_dir", str(tmp_path / "images"), "--resolution", "64",
        "--network_module", "networks.lora", "--network_dim", "2",
    ]  # fmt: skip


def values(base, *varied) -> list[dict]:
    return [dict(one.values) for one in variations("train_network", base, varied)]


def test_every_combination_is_made_the_last_changing_fastest(base):
    assert values(base, "network_dim=4,16", "--seed=1,2") == [
        {"network_dim": "4", "seed": "1"},
        {"network_dim": "4", "seed": "2"},
        {"network_dim": "16", "seed": "1"},
        {"network_dim": "16", "seed": "2"},
    ]


def test_options_joined_by_plus_change_together(base):
    assert values(base, "optimizer_type+learning_rate=AdamW:1e-4,Lion:1e-5") == [
        {"optimizer_type": "AdamW", "learning_rate": "1e-4"},
        {"optimizer_type": "Lion", "learning_rate": "1e-5"},
    ]


def test_quotes_hold_commas_and_colons_together(base):
    assert [one["resolution"] for one in values(base, "resolution='512,768',640")] == ["512,768", "640"]
    assert values(base, "training_comment+seed='a:b':1") == [{"training_comment": "a:b", "seed": "1"}]


def test_a_path_with_a_drive_needs_no_quotes_when_it_varies_alone():
    assert split_unquoted(r"C:\a b.safetensors,D:\c.safetensors", ",") == [r"C:\a b.safetensors", r"D:\c.safetensors"]


def test_a_varied_option_replaces_what_the_base_says(base):
    made = variations("train_network", base, ["network_dim=4"])[0]
    assert made.options.network_dim == 4
    assert [word for word in made.arguments if "network_dim" in word] == ["--network_dim=4"]


def test_an_empty_value_leaves_the_option_out(base):
    first, second = variations("train_network", [*base, "--scale_weight_norms", "3"], ["scale_weight_norms=,1"])
    assert (first.options.scale_weight_norms, second.options.scale_weight_norms) == (None, 1.0)


def test_switches_are_turned_on_and_off(base):
    made = variations("train_network", [*base, "--enable_bucket"], ["enable_bucket=on,off"])
    assert [one.options.enable_bucket for one in made] == [True, False]


def test_blanks_part_the_values_of_one_option(base):
    first, second = variations("train_network", base, ["network_args='conv_dim=4 conv_alpha=1',''"])
    assert (first.options.network_args, second.options.network_args) == (["conv_dim=4", "conv_alpha=1"], None)


def test_the_folder_of_the_base_does_not_count(base):
    one, other = (variations("train_network", [*base, "--output_dir", name], ["seed=1"])[0] for name in ("a", "b"))
    assert one.arguments == other.arguments


@pytest.mark.parametrize(
    "varied, told",
    [
        ("netwrok_dim=4", "netwrok_dim.*did you mean network_dim"),
        ("network_dim", "write NAME=VALUE"),
        ("network_dim=4,x", r"run network_dim=x: .*invalid int value: 'x'"),
        ("network_dim=4,4", "a value stands there twice"),
        ("optimizer_type+learning_rate=AdamW", "1 values for 2 options"),
        ("optimizer_type=AdmaW", "run optimizer_type=AdmaW: .*AdamW"),
        ("enable_bucket=perhaps", "on and off"),
        ("training_comment='a", "not closed"),
        ("output_dir=a,b", "cannot be varied"),
    ],
)
def test_mistakes_are_told(base, varied, told):
    with pytest.raises(BadArguments, match=f"(?s){told}"):
        variations("train_network", base, [varied])


def test_an_option_varied_twice_is_refused(base):
    with pytest.raises(BadArguments, match="seed is varied twice"):
        variations("train_network", base, ["seed=1", "seed+network_dim=2:3"])


def test_what_a_config_file_gives_cannot_be_left_out(base, tmp_path):
    (tmp_path / "run.toml").write_text("scale_weight_norms = 1.0\n")
    with pytest.raises(BadArguments, match="scale_weight_norms cannot be left out, .*run.toml gives it"):
        variations("train_network", [*base, "--config_file", str(tmp_path / "run.toml")], ["scale_weight_norms=,2"])


def test_keys_are_not_written_into_files(base):
    with pytest.raises(BadArguments, match="WANDB_API_KEY"):
        variations("train_network", [*base, "--wandb_api_key", "secret"], ["seed=1"])


def test_names_fit_every_file_system_and_differ_where_values_do():
    names = [run_name({"network_weights": text}) for text in ("a/b:c.safetensors", "a-b-c.safetensors", "x" * 300, "x" * 301)]
    assert len(set(names)) == 4
    assert all(len(name) <= 60 and not set(name) & set('/\\:*?"<>| ') for name in names)
