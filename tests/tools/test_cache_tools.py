"""tools/cache_latents.py and tools/cache_text_encoder_outputs.py: the cache files are those that training makes."""

import numpy as np
import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "1_thing"
    folder.mkdir(parents=True)
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 255, (64, 64 + 64 * number, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a thing")
    return folder.parent


@pytest.fixture
def never_built(monkeypatch):
    """Call it with model classes: building one of them is an error from then on."""

    def forbid(*classes) -> None:
        for kind in classes:
            monkeypatch.setattr(kind, "__init__", lambda *_, **__: pytest.fail("a model that is not needed is built"))

    return forbid


@pytest.mark.parametrize(("kind", "suffix", "layout"), [("sd1", "_sd.npz", "single_file"), ("sdxl", "_sdxl.npz", "folder")])
def test_latents_are_written_once_by_the_vae_alone(kind, suffix, layout, layouts, images, run_tool, never_built):
    never_built(UNet2DConditionModel, CLIPTextModel)
    argv = ["--pretrained_model_name_or_path", getattr(layouts(kind), layout), "--train_data_dir", images, "--resolution", "64,64"]
    argv += ["--enable_bucket", "--min_bucket_reso", 64, "--max_bucket_reso", 128, *(["--sdxl"] if kind == "sdxl" else [])]
    run_tool("tools.cache_latents", *argv)
    files = sorted(images.rglob(f"*{suffix}"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    run_tool("tools.cache_latents", *argv)
    assert [file.stat().st_mtime_ns for file in files] == times


@pytest.mark.parametrize("layout", ["single_file", "folder"])
def test_text_states_are_written_once_by_the_text_encoders_alone(layout, layouts, images, run_tool, never_built):
    never_built(UNet2DConditionModel, AutoencoderKL)
    argv = ["--sdxl", "--pretrained_model_name_or_path", getattr(layouts("sdxl"), layout), "--train_data_dir", images]
    argv += ["--resolution", "64,64"]
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
