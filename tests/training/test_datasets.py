"""From a command line to data sets: mistakes of all kinds are told together, and nothing found is a failure."""

import pickle

import pytest

from library.data.folders import image_extensions
from library.training import datasets
from library.training.network_recipe import train_network
from tests.data.drawn import draw
from tests.data.scenes import paint
from tests.golden_workshop import read_command_line
from tests.tiny_runs import picture_folder, small_run

BAD = {"empty.png": b"", "text.jpg": b"no image", "half.webp": None, "日本 語.bmp": b"BM"}


def spoil(folder):
    """A folder with four files that are no images, one in a format that needs a package, one with a caption that is no text."""
    draw(folder, "good.png", "caption.png", size=(64, 64), caption="cat")
    (folder / "caption.txt").write_bytes(b"\xff\xfe\x00")
    for name, content in BAD.items():
        if content is None:
            content = paint(folder / name, (64, 64)).read_bytes()[:100]
        (folder / name).write_bytes(content)
    (folder / "new.jxl").write_bytes(b"")


def command(folder, *more):
    """No model is there: whatever loads one would fail."""
    argv = ["--train_data_dir", str(folder), "--resolution", "64", "--output_dir", str(folder), "--network_module", "networks.lora"]
    return read_command_line("sd", [*argv, "--pretrained_model_name_or_path", str(folder), "--caption_extension", ".txt", *more])


def test_every_bad_file_is_named_at_once_before_a_model_is_loaded(tmp_path):
    spoil(tmp_path / "1_cat")
    draw(tmp_path / "1_dog", "small.png", size=(32, 64))
    with pytest.raises(ValueError) as error:
        train_network(*command(tmp_path))
    told = str(error.value)
    assert all(name in told for name in [*BAD, "caption.txt is not UTF-8", "new.jxl", "small.png: is 32x64", "--skip_bad_images"])
    if ".jxl" not in image_extensions():
        assert "pip install pillow-jxl-plugin" in told


def test_with_skip_bad_images_the_good_ones_are_left(tmp_path, capsys):
    spoil(tmp_path / "1_cat")
    args, family = command(tmp_path, "--skip_bad_images")
    data = datasets.build_datasets(args, family, seed=1)
    assert [record.path.name for record in data.train.datasets[0].records.values()] == ["good.png"]
    told = capsys.readouterr().err
    assert "6 images cannot be used" in told and "left out (--skip_bad_images)" in told


@pytest.mark.parametrize("skip", [[], ["--skip_bad_images"]])
def test_when_nothing_can_be_used_the_run_fails(tmp_path, skip):
    (tmp_path / "1_cat").mkdir()
    (tmp_path / "1_cat" / "empty.png").touch()
    args, family = command(tmp_path, *skip)
    with pytest.raises(ValueError, match="empty.png" if not skip else "no training image was found"):
        datasets.build_datasets(args, family, seed=1)


@pytest.mark.usefixtures("models_loaded_once")
@pytest.mark.parametrize("options", [[], ["--weighted_captions"], ["--strict_compat"], ["--cache_latents", "--strict_compat"]])
def test_what_workers_get_can_be_sent_to_a_new_process(options, tiny_models, tmp_path):
    """As on Windows, where workers are new processes and not copies of this one."""
    run = small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", count=2), tmp_path, *options)
    loader = run.loader._loader
    sent, _ = pickle.loads(pickle.dumps((loader.dataset, loader.worker_init_fn)))
    assert len(sent) == len(loader.dataset)
