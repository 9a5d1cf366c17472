"""The tiny model of the examples: it draws what is asked for, and has Stable Diffusion 1's layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from examples.tiny_sd.check import MODEL, check, is_right
from examples.tiny_sd.concept import MASCOT_FOLDER, REG_FOLDER, write_mascot, write_reg
from examples.tiny_sd.domain import COLOURS, SHAPES, draw_picture
from examples.tiny_sd.model_folder import read_parts
from examples.tiny_sd.models import SCALE
from examples.tiny_sd.rule import look
from examples.tiny_sd.train_vae import encode_means, judge, to_tensor

LARGEST = 16_000_000


@pytest.fixture(scope="module")
def parts():
    return read_parts(MODEL)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, str]]:
    """Pictures of one object on a plain background, which the model has not seen, and their captions."""
    rng = np.random.default_rng(4711)
    pairs = (draw_picture(rng) for _ in range(60))
    return [(picture, caption) for picture, caption in pairs if "two" not in caption and "gradient" not in caption]


def test_the_rule_names_what_was_drawn(drawn):
    for picture, caption in drawn:
        seen = look(picture)
        assert caption.startswith(f"{seen.colour} {seen.shape}, {seen.background} background"), caption


def test_the_rule_finds_no_shape_in_other_pictures():
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    plain = np.full((64, 64, 3), COLOURS["blue"], np.uint8)
    bar = plain.copy()
    bar[28:36, 4:60] = COLOURS["red"]
    assert [look(picture).shape for picture in (noise, plain, bar)] == [None, None, None]
    assert look(bar)[:2] == ("blue", "red")


def test_the_model_draws_the_asked_shape_in_the_asked_colour(parts):
    wishes, sights, _ = check(parts, 2 * len(SHAPES))
    right = [is_right(wish, seen) for wish, seen in zip(wishes, sights, strict=True)]
    assert np.mean(right) >= 0.8, list(zip(wishes, sights, strict=True))


def test_the_model_is_small():
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= LARGEST


def test_latents_fit_stable_diffusions_scale(parts, drawn):
    with torch.no_grad():
        latents = encode_means(parts.vae, to_tensor(np.stack([picture for picture, _ in drawn]))) * SCALE
    spread = latents.std((0, 2, 3))
    assert ((spread > 0.7) & (spread < 1.4)).all(), spread
    assert latents.mean().abs() < 0.2


def test_the_autoencoder_beats_a_colour_average(parts, drawn):
    errors = judge(parts.vae, np.stack([picture for picture, _ in drawn]))
    assert errors["l1"] < 0.6 * errors["average_l1"], errors


def test_the_concept_in_the_repository_is_what_the_script_draws(tmp_path):
    write_mascot(tmp_path / MASCOT_FOLDER)
    write_reg(tmp_path / REG_FOLDER)
    drawn_files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.*"))
    kept = sorted(file.relative_to(MODEL.parent) for folder in ("mascot", "reg") for file in (MODEL.parent / folder).rglob("*.*"))
    assert drawn_files == kept
    for name in kept:
        if name.suffix == ".png":
            difference = np.abs(_pixels(tmp_path / name) - _pixels(MODEL.parent / name))
            assert difference.max() <= 1, name  # the last bit of a sine may differ between machines
        else:
            assert (tmp_path / name).read_text() == (MODEL.parent / name).read_text()


def _pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)
