"""The same model as a single file and as a folder is the same model."""

import dataclasses
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.models.checkpoints import MappedFile
from tests.models.conftest import FAMILIES

SIZES = {name: torch.tensor([[64, 48], [64, 64]]) for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw")}


@torch.no_grad()
def outputs(family, models) -> list[torch.Tensor]:
    """Latents, text states and prediction for fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    states = family.encode_text(models.text_encoders, family.tokenize(["a cat", "two dogs on a roof"]))
    torch.manual_seed(0)
    latents = family.encode_images(models.vae, pixels)
    prediction = family.predict(models.unet, latents, torch.tensor([10, 900]), states, SIZES)
    return [latents, prediction, *states.values()]


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_single_file_equals_the_folder(layouts, kind):
    family, (folder, single_file) = FAMILIES[kind], layouts(kind)
    for from_folder, from_file in zip(
        outputs(family, family.load(str(folder))), outputs(family, family.load(str(single_file))), strict=True
    ):
        torch.testing.assert_close(from_file, from_folder, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_route_gives_frozen_models_in_the_wanted_dtype_and_draws_nothing(layouts, kind):
    for path in layouts(kind):
        state = torch.get_rng_state()
        models = FAMILIES[kind].load(str(path), dtype=torch.bfloat16, vae_dtype=torch.float32)
        assert torch.equal(torch.get_rng_state(), state)
        for module in (models.unet, models.vae, *models.text_encoders):
            wanted = torch.float32 if module is models.vae else torch.bfloat16
            assert not module.training
            assert {(p.dtype, p.requires_grad, p.is_meta) for p in module.parameters()} == {(wanted, False, False)}
            assert not any(buffer.is_meta for buffer in module.buffers())


def test_sd2_from_a_file_has_convolutions_where_the_folder_has_linear_layers(layouts):
    folder, single_file = (FAMILIES["sd2"].load(str(path)).unet.mid_block.attentions[0].proj_in for path in layouts("sd2"))
    assert isinstance(folder, torch.nn.Linear) and isinstance(single_file, torch.nn.Conv2d)
    assert torch.equal(single_file.weight.flatten(1), folder.weight)


def test_sd2_leaves_out_the_last_layer_of_its_text_encoder(layouts):
    (encoder,) = FAMILIES["sd2"].load(str(layouts("sd2").single_file)).text_encoders
    assert encoder.config.num_hidden_layers == 4


def test_the_projection_of_sdxl_files_can_be_left_as_it_is_stored(layouts):
    single_file = str(layouts("sdxl").single_file)
    as_stored = dataclasses.replace(FAMILIES["sdxl"], transpose_text_projection=False)
    weights = [family.load(single_file).text_encoders[1].text_projection.weight for family in (FAMILIES["sdxl"], as_stored)]
    assert torch.equal(weights[0], weights[1].T)


def test_sdxl_keeps_the_logit_scale(layouts):
    assert FAMILIES["sdxl"].load(str(layouts("sdxl").single_file)).logit_scale.item() == pytest.approx(4.6)


@pytest.mark.parametrize("ending", ["SafeTensors", "ckpt", "pt"])
def test_any_file_form_holds_the_same_model(layouts, tmp_path, ending):
    tensors, path = load_file(layouts("sd1").single_file), tmp_path / f"model.{ending}"
    if ending == "SafeTensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 3} if ending == "ckpt" else tensors, path)
    loaded = FAMILIES["sd1"].load(str(path), disable_mmap=True).unet.conv_in.weight
    assert torch.equal(loaded, tensors["model.diffusion_model.input_blocks.0.0.weight"])


def test_old_files_without_the_text_model_level_load(layouts, tmp_path):
    tensors = load_file(layouts("sd1").single_file)
    prefix = "cond_stage_model.transformer."
    save_file({key.replace(prefix + "text_model.", prefix): value for key, value in tensors.items()}, tmp_path / "old.safetensors")
    first, second = (FAMILIES["sd1"].load(str(path)).text_encoders[0] for path in (tmp_path / "old.safetensors", layouts("sd1").folder))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_a_link_into_a_cache_is_followed(layouts, tmp_path):
    target = tmp_path / "blob"
    os.link(layouts("sd1").single_file, target)
    (tmp_path / "model.safetensors").symlink_to(target)
    assert FAMILIES["sd1"].load(str(tmp_path / "model.safetensors")).unet.conv_in.weight.shape[0] == 32


def test_weights_do_not_depend_on_the_file_after_loading(layouts, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(layouts("sd1").single_file.read_bytes())
    models = FAMILIES["sd1"].load(str(path))
    before = models.unet.conv_in.weight.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(models.unet.conv_in.weight, before)


def test_a_folder_with_fp16_weights_only_loads_in_any_dtype(layouts, tmp_path):
    import shutil

    folder = shutil.copytree(layouts("sd1").folder, tmp_path / "model")
    for path in folder.glob("*/*.safetensors"):
        save_file({key: value.half() for key, value in load_file(path).items()}, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
        path.unlink()
    for dtype in (torch.float16, torch.float32):
        assert FAMILIES["sd1"].load(str(folder), dtype=dtype).unet.dtype == dtype


def test_tensors_stay_whole_when_the_file_is_mapped_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(MappedFile, "REMAP_BYTES", 0)
    expected = {name: torch.randn(5) for name in "abc"}
    save_file(expected, tmp_path / "x.safetensors")
    file = MappedFile(str(tmp_path / "x.safetensors"))
    found = {name: file.read(name) for name in file.shapes()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
