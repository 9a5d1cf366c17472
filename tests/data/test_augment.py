import random

import numpy as np

from library.data.augment import augment_color, change_gamma, draw_flip, turn_hue
from tests.data.scenes import fixed_rng


def test_without_flip_aug_nothing_is_drawn():
    assert draw_flip(False, fixed_rng()) is False


def test_half_of_the_images_are_flipped():
    assert [draw_flip(True, fixed_rng(draw)) for draw in (0.49, 0.5)] == [True, False]


def test_two_thirds_of_the_images_keep_their_colour():
    image = np.full((2, 2, 3), 100, np.uint8)
    assert augment_color(image, fixed_rng(0.34)) is image


def test_gamma_works_on_levels_up_to_255():
    levels = np.array([[[0, 1, 100], [200, 255, 16]]], np.uint8)
    assert change_gamma(levels, 1.05).tolist() == [[[0, 1, 125], [255, 255, 18]]]


def test_hue_turns_blue_where_red_is_expected():
    red = np.array([[[200, 0, 0]]], np.uint8)       # taken for blue: its hue of 120 turns towards magenta's 150
    assert turn_hue(red, 8.0)[0, 0].tolist() == [200, 0, 53]


def test_a_negative_turn_goes_round_the_circle():
    blue = np.array([[[0, 0, 200]]], np.uint8)      # taken for red, hue 0
    assert turn_hue(blue, -8.0)[0, 0].tolist() == turn_hue(blue, 172.0)[0, 0].tolist()


def test_alpha_keeps_its_values():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    changed = augment_color(image, random.Random(4))    # 0.236 < 0.33: changed
    assert (changed[:, :, :3] != image[:, :, :3]).any() and (changed[:, :, 3] == image[:, :, 3]).all()
