"""Sizes from the first bytes of a file are those that Pillow reads."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from library.data.image_headers import header_size

FORMS = [
    ("png", "RGB", {}), ("png", "RGBA", {}), ("png", "P", {}), ("png", "I;16", {}), ("jpg", "RGB", {"quality": 5}), ("jpg", "L", {}),
    ("jpg", "CMYK", {}), ("jpg", "RGB", {"progressive": True}), ("jpg", "RGB", {"exif": b"Exif\0\0" + b"x" * 9000, "comment": b"hello"}),
    ("webp", "RGB", {}), ("webp", "RGBA", {"lossless": True}),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "mode", "options"), FORMS)
def test_plain_forms_are_read_without_pillow(tmp_path, ending, mode, options):
    path = tmp_path / f"a.{ending}"
    Image.new(mode, (301, 17)).save(path, **options)
    assert header_size(str(path)) == (301, 17)


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.tiff"])
def test_other_formats_are_left_to_pillow(tmp_path, name):
    Image.new("RGB", (31, 17)).save(tmp_path / name)
    assert header_size(str(tmp_path / name)) is None


@pytest.mark.parametrize("ending", ["png", "jpg"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_gives_a_size_that_pillow_would_not_read(tmp_path, ending, data):
    """One byte of the header altered, or the file cut off there: the size is Pillow's, or Pillow is asked, or it cannot open the file."""
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (31, 17)).save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, min(200, len(content) - 1)))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), place + 1]))]))
    size = header_size(str(path))
    try:
        with Image.open(path) as image:
            assert size in (None, image.size)
    except (OSError, ValueError, SyntaxError):
        assert size in (None, (31, 17)) or ending == "jpg"
