import logging

import pytest

from networks.arguments import boolean, probability, read_network_args

KNOWN = {"conv_dim": int, "conv_alpha": float, "module_dropout": probability, "use_tucker": boolean}


def test_values_are_read_and_absent_or_empty_ones_are_none():
    values = read_network_args({"conv_dim": "8", "conv_alpha": "", "module_dropout": None}, KNOWN, "networks.lora")
    assert values == {"conv_dim": 8, "conv_alpha": None, "module_dropout": None, "use_tucker": None}


def test_an_unknown_key_costs_one_warning_with_the_nearest_name(caplog):
    with caplog.at_level(logging.WARNING):
        read_network_args({"conv_dims": "8", "preset": "full"}, KNOWN, "networks.lora")
    assert len(caplog.records) == 1
    assert "conv_dims (did you mean conv_dim?), preset" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "needs"),
    [
        ("conv_dim", "8.5", "a whole number"),
        ("conv_alpha", "one", "a number"),
        ("module_dropout", "1.5", "from 0 to below 1"),
        ("use_tucker", "maybe", "True or False"),
    ],
)
def test_a_bad_value_names_key_value_and_what_fits(key, value, needs):
    with pytest.raises(ValueError, match=f"{key}={value}.*{needs}"):
        read_network_args({key: value}, KNOWN, "networks.lora")


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("0", False), ("YES", True)])
def test_false_means_false(text, value):
    assert boolean(text) is value
