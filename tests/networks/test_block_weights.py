import logging

import pytest

from networks.block_weights import SD_LAYOUT, SDXL_LAYOUT, block_index, block_list, block_rate_weights, preset_weights


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("down_blocks.0.attentions.1.proj_in", 2),
        ("down_blocks.2.downsamplers.0.conv", 9),
        ("mid_block.resnets.0.conv1", 12),
        ("up_blocks.0.resnets.0.conv1", 13),
        ("up_blocks.1.upsamplers.0.conv", 18),
        ("up_blocks.3.attentions.2.proj_out", 24),
        ("input_blocks.4.1.proj_in", 5),
        ("middle_block.1.proj_in", 11),
        ("output_blocks.8.0.in_layers.2", 21),
    ],
)
def test_every_layer_knows_its_block(path, index):
    assert block_index(path) == index


def test_layouts_have_the_known_number_of_blocks():
    assert (SD_LAYOUT.count, SDXL_LAYOUT.count) == (25, 23)


def test_a_curve_may_have_a_base():
    assert preset_weights("up_lr_weight", "linear+.25", 5) == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_cosine_is_sine_backwards():
    sine = preset_weights("up_lr_weight", "sine", 12)
    assert preset_weights("up_lr_weight", "cosine", 12) == sine[::-1]
    assert (sine[0], sine[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["1", "0.5", "sinus", "sine+x"])
def test_a_lone_number_or_unknown_curve_is_refused_with_the_allowed_forms(text):
    with pytest.raises(ValueError, match=r"down_lr_weight=.*12 numbers.*reverse_linear"):
        block_rate_weights(text, None, None, layout=SD_LAYOUT)


def test_short_lists_are_filled_with_one_and_empty_items_are_zero(caplog):
    with caplog.at_level(logging.WARNING):
        weights = block_rate_weights("0.5,,0.2", None, None, layout=SD_LAYOUT)
    assert weights == [0.5, 0.0, 0.2] + [1.0] * 22
    assert "12 are needed" in caplog.text


def test_long_lists_are_cut():
    assert len(block_rate_weights(None, "1,2,3,4,5", None, layout=SDXL_LAYOUT)) == 23


def test_weights_not_above_the_threshold_become_zero():
    weights = block_rate_weights("0.1,0.2,-1" + ",1" * 9, None, None, layout=SD_LAYOUT, zero_threshold=0.1)
    assert weights[:4] == [0.0, 0.2, 0.0, 1.0]


def test_without_any_weight_there_are_no_block_groups():
    assert block_rate_weights(None, None, None, layout=SD_LAYOUT) is None


def test_a_block_list_of_the_wrong_length_names_both_counts():
    with pytest.raises(ValueError, match=r"block_dims has 3 values, this model needs 23 \(1 \+ 9 \+ 3 \+ 9 \+ 1\)"):
        block_list("block_dims", "4,4,4", SDXL_LAYOUT, int)


def test_a_block_list_with_a_word_in_it_is_refused():
    with pytest.raises(ValueError, match="block_dims=4,x: needs whole numbers"):
        block_list("block_dims", "4,x", SD_LAYOUT, int)
