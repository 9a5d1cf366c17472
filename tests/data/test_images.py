import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from library.data.images import alpha_tensor, load_image, resize_image, to_tensor
from tests.data.scenes import paint


@pytest.fixture
def image(tmp_path):
    return load_image(paint(tmp_path / "a.png", (60, 40)))


def pillow(image: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[name]))


def test_an_image_that_shrinks_both_ways_is_averaged_over_areas(image):
    np.testing.assert_array_equal(resize_image(image, (30, 40)), cv2.resize(image, (30, 40), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("size", [(120, 80), (30, 80), (61, 20)])
def test_an_image_that_grows_on_any_side_takes_lanczos(image, size):
    np.testing.assert_array_equal(resize_image(image, size), pillow(image, size, "LANCZOS"))


@pytest.mark.parametrize(
    "name, expected",
    [("bilinear", cv2.INTER_LINEAR), ("linear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC), ("nearest", cv2.INTER_NEAREST_EXACT)],
)
def test_named_filters_are_opencvs(image, name, expected):
    np.testing.assert_array_equal(resize_image(image, (33, 21), name), cv2.resize(image, (33, 21), interpolation=expected))


def test_the_box_filter_is_pillows(image):
    np.testing.assert_array_equal(resize_image(image, (33, 21), "box"), pillow(image, (33, 21), "BOX"))


def test_an_image_of_the_right_size_is_left_alone(image):
    assert resize_image(image, (60, 40), "nearest") is image


def test_an_unknown_filter_is_refused_with_the_known_ones(image):
    with pytest.raises(ValueError, match="--resize_interpolation 'sinc'.*lanczos"):
        resize_image(image, (30, 20), "sinc")


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").shape == (10, 20, 3)


def test_transparency_is_dropped_not_blended(tmp_path):
    Image.new("RGBA", (2, 2), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png")[0, 0].tolist() == [200, 100, 50]


def test_sixteen_bit_grey_is_cut_off_at_255(tmp_path):
    Image.fromarray(np.array([[0, 100, 40000]], np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        load_image(tmp_path / "broken.png")


def test_pixels_become_minus_one_to_one(image):
    image[0, 0], image[0, 1] = 0, 255
    pixels = to_tensor(image)
    assert pixels.shape == (3, 40, 60)
    assert pixels[:, 0, :2].tolist() == [[-1, 1]] * 3


def test_an_image_without_alpha_has_a_mask_of_ones(image):
    torch.testing.assert_close(alpha_tensor(image), torch.ones(40, 60))
