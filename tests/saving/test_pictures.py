import torch
from PIL import Image

from library.saving.pictures import parameters_text, picture_of, write_png


def test_pixels_become_shades_and_nan_becomes_black():
    pixels = torch.tensor([-1.0, 0.0, 1.0, 7.0, float("nan")]).expand(3, 1, 5)
    assert [picture_of(pixels).getpixel((x, 0))[0] for x in range(5)] == [0, 128, 255, 255, 0]


def test_parameters_are_written_as_web_uis_read_them():
    text = parameters_text("a cat", "blurry", {"Steps": 4, "Model": "my, model"})
    assert text == 'a cat\nNegative prompt: blurry\nSteps: 4, Model: "my, model"'


def test_a_png_tells_its_prompt_in_any_language(tmp_path):
    write_png(tmp_path / "new" / "a.png", Image.new("RGB", (8, 8)), "桜, café\nSteps: 1")
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert (picture.format, picture.info["parameters"]) == ("PNG", "桜, café\nSteps: 1")
