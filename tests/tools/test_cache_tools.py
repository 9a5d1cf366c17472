"""tools/cache_latents.py and tools/cache_text_encoder_outputs.py: the cache files are those that training makes."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "1_thing"
    folder.mkdir(parents=True)
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 255, (64, 64 + 64 * number, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a thing")
    return folder.parent


@pytest.mark.parametrize(("kind", "suffix"), [("sd1", "_sd.npz"), ("sdxl", "_sdxl.npz")])
def test_latents_are_written_once(kind, suffix, layouts, images, run_tool):
    argv = ["--pretrained_model_name_or_path", layouts(kind).folder, "--train_data_dir", images, "--resolution", "64,64"]
    argv += ["--enable_bucket", "--min_bucket_reso", 64, "--max_bucket_reso", 128, *(["--sdxl"] if kind == "sdxl" else [])]
    run_tool("tools.cache_latents", *argv)
    files = sorted(images.rglob(f"*{suffix}"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    run_tool("tools.cache_latents", *argv)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_text_states_are_written_once(layouts, images, run_tool):
    argv = ["--sdxl", "--pretrained_model_name_or_path", layouts("sdxl").folder, "--train_data_dir", images, "--resolution", "64,64"]
    argv += ["--enable_bucket", "--min_bucket_reso", 64, "--max_bucket_reso", 128]
    run_tool("tools.cache_text_encoder_outputs", *argv)
    files = sorted(images.rglob("*_te_outputs.npz"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    run_tool("tools.cache_text_encoder_outputs", *argv, "--text_encoder_batch_size", 2)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_text_states_of_sd1_are_refused(run_tool, capsys):
    with pytest.raises(SystemExit) as end:
        run_tool("tools.cache_text_encoder_outputs")
    assert end.value.code == 1 and "add --sdxl" in capsys.readouterr().err


def test_models_of_other_families_are_refused(run_tool, capsys):
    with pytest.raises(SystemExit) as end:
        run_tool("tools.cache_latents", "--flux")
    assert end.value.code == 1 and "only Stable Diffusion 1, 2 and XL" in capsys.readouterr().err
