"""Random changes to an image: mirroring, colour, and how often each happens.

Arrays are uint8 (H, W, 3) RGB, or (H, W, 4) with alpha. `rng` is the module `random` or a random.Random:
the order and number of draws is part of what a seed means, so nothing here draws more than it says.
"""

import cv2
import numpy as np

FLIP_CHANCE = 0.5
COLOR_CHANCE = 0.33


def draw_flip(flip_aug: bool, rng) -> bool:
    """One draw, and only with flip_aug."""
    return flip_aug and rng.random() < FLIP_CHANCE


def flip_image(image: np.ndarray) -> np.ndarray:
    return image[:, ::-1]


def augment_color(image: np.ndarray, rng) -> np.ndarray:
    """A third of the images get a small turn of hue or a small change of gamma; alpha stays."""
    if rng.random() > COLOR_CHANCE:
        return image
    colors = image[:, :, :3]
    changed = turn_hue(colors, rng.uniform(-8, 8)) if rng.random() > 0.5 else change_gamma(colors, rng.uniform(0.95, 1.05))
    return np.concatenate([changed, image[:, :, 3:]], axis=2)


def turn_hue(colors: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` half-degrees. Red and blue change places for the turn, as sd-scripts has it."""
    hsv = cv2.cvtColor(colors, cv2.COLOR_BGR2HSV)
    turn = shift if shift >= 0 else 180 + shift
    hsv[:, :, 0] = ((hsv[:, :, 0].astype(np.float64) + turn) % 180).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def change_gamma(colors: np.ndarray, gamma: float) -> np.ndarray:
    """level ** gamma on 0..255, not on 0..1: brightens or darkens by up to a quarter at the bright end, as sd-scripts does."""
    return np.clip(colors.astype(np.float64) ** gamma, 0, 255).astype(np.uint8)
