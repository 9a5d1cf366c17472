import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from library.data.folders import image_extensions
from library.data.images import BadImage, load_image, resize_image
from library.data.pixels import alpha_tensor, colors, to_tensor
from library.data.sizes import probe_sizes
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


def test_sixteen_bit_grey_is_scaled_and_in_strict_mode_cut_off_at_255(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[0].tolist() == [[0] * 3, [1] * 3, [255] * 3]
    assert load_image(tmp_path / "deep.png", strict_compat=True)[0].tolist() == [[0] * 3, [255] * 3, [255] * 3]


def test_sixteen_bit_grey_has_a_full_alpha_channel(tmp_path):
    Image.fromarray(np.array([[65535]], np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png", with_alpha=True)[0, 0].tolist() == [255] * 4


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_keeps_its_colours_and_its_alpha(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert load_image(tmp_path / "p.png")[0].tolist() == [[200, 100, 50], [10, 20, 30]]
    assert load_image(tmp_path / "p.png", with_alpha=True)[0].tolist() == [[200, 100, 50, 0], [10, 20, 30, 255]]


def test_a_cmyk_photo_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red = load_image(tmp_path / "print.jpg")[8, 8]
    assert red[0] > 200 and max(red[1:]) < 60


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.avif", "猫 と犬.png", "with space.jpg"])
def test_formats_and_names_of_all_kinds_are_read(tmp_path, name):
    if name.endswith(".avif") and ".avif" not in image_extensions():
        pytest.skip("needs Pillow with AVIF or the package pillow-avif-plugin")
    Image.new("RGB", (32, 16), (250, 5, 5)).save(tmp_path / name)
    pixels = load_image(tmp_path / name)
    assert pixels.shape == (16, 32, 3) and pixels[8, 8, 0] > 200


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "avif"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_named_and_nothing_else(tmp_path, ending, data):
    path = paint(tmp_path / f"damaged.{ending}", (24, 16))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    sizes, problems = probe_sizes([str(path)])
    assert len(sizes) + len(problems) == 1
    if problems or math.prod(sizes[str(path)]) > 10**6:
        return
    try:
        assert load_image(path).ndim == 3
    except BadImage as error:
        assert error.path == path and error.reason


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    paths = [str(paint(tmp_path / name, (80, 60))) for name in ("a.png", "b.webp")]
    problems = probe_sizes(paths)[1]
    assert list(problems) == paths and all("more than the" in problem and "scale it down" in problem for problem in problems.values())


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        load_image(tmp_path / "broken.png")


def test_pixels_become_minus_one_to_one(image):
    image[0, 0], image[0, 1] = 0, 255
    pixels = to_tensor(image)
    assert pixels.shape == (3, 40, 60)
    assert pixels[:, 0, :2].tolist() == [[-1, 1]] * 3


def test_bytes_become_the_colours_of_torchvisions_functions_to_the_bit():
    every = torch.arange(256, dtype=torch.uint8)
    scaled = every.float() / 255  # ToTensor, then Normalize([0.5], [0.5])
    assert torch.equal(colors(every), (scaled - 0.5) / 0.5)
    assert colors(scaled) is scaled


@pytest.mark.gpu
def test_colours_are_the_same_on_a_gpu(gpu):
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(colors(every.to(gpu)).cpu(), colors(every))


def test_an_image_without_alpha_has_a_mask_of_ones(image):
    torch.testing.assert_close(alpha_tensor(image), torch.ones(40, 60))
