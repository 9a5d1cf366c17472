"""--vae in all its forms, and images to latents."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.models.ldm_keys import VAE_PREFIX
from library.models.sd import SD
from library.models.swallow import layer_draws
from tests.models.conftest import FAMILIES
from tests.tiny_single_files import comparable_folder, original_vae_key


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder of a tiny model with another VAE."""
    return comparable_folder("sd1", tmp_path_factory.mktemp("other"), seed=7)


def diffusers_tensors(folder):
    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def vae_forms(folder, out):
    """Path of each form of the VAE in `folder`."""
    tensors = diffusers_tensors(folder)
    original = {original_vae_key(key): value for key, value in tensors.items()}
    old_names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for key, value in tensors.items():
        for new, past in old_names.items():
            key = key.replace(new, past)
        old[key] = value
    torch.save({"state_dict": original | {"loss.logvar": torch.zeros(1)}}, out / "original.ckpt")
    save_file({VAE_PREFIX + key: value for key, value in original.items()}, out / "prefixed.safetensors")
    save_file(original, out / "original.safetensors")
    save_file(tensors, out / "diffusers.safetensors")
    torch.save(tensors, out / "diffusion_pytorch_model.bin")
    torch.save(old, out / "old_names.bin")
    return [folder / "vae", folder, *out.iterdir()]


def test_every_form_of_vae_is_read_alike_and_files_cost_draws(layouts, other, tmp_path):
    expected = diffusers_tensors(other)
    base = FAMILIES["sd1"].load(str(layouts("sd1").folder)).swallowed_draws
    forms = vae_forms(other, tmp_path)
    assert len(forms) == 8
    for path in forms:
        models = FAMILIES["sd1"].load(str(layouts("sd1").folder), vae=str(path))
        state = models.vae.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items()), path
        assert models.swallowed_draws - base == (layer_draws(models.vae) if path.is_file() else 0), path


def test_a_whole_checkpoint_serves_as_vae(layouts, other):
    vae = FAMILIES["sd1"].load(str(other), vae=str(layouts("sd1").single_file)).vae
    assert torch.equal(vae.quant_conv.weight, diffusers_tensors(layouts("sd1").folder)["quant_conv.weight"])


@pytest.mark.parametrize("content", ["nothing", "lora"])
def test_a_file_without_a_vae_is_refused_naming_the_option(layouts, tmp_path, content):
    name = {"nothing": "x", "lora": "lora_unet_x.lora_down.weight"}[content]
    save_file({name: torch.zeros(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="--vae .*vae.safetensors holds no VAE"):
        SD().load(str(layouts("sd1").folder), vae=str(tmp_path / "vae.safetensors"))


def test_a_folder_without_a_vae_is_refused_naming_the_option(layouts, tmp_path):
    with pytest.raises(ValueError, match="--vae"):
        SD().load(str(layouts("sd1").folder), vae=str(tmp_path))


def test_a_model_file_without_a_vae_needs_the_option(layouts, tmp_path):
    tensors = {key: value for key, value in load_file(layouts("sd1").single_file).items() if not key.startswith(VAE_PREFIX)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no VAE: name one with --vae"):
        SD().load(str(tmp_path / "model.safetensors"))
    assert SD().load(str(tmp_path / "model.safetensors"), vae=str(layouts("sd1").folder)).vae is not None


@torch.no_grad()
def test_latents_of_a_batch_are_contiguous_samples_of_the_posterior(layouts):
    family = FAMILIES["sdxl"]
    vae = family.load(str(layouts("sdxl").folder)).vae
    pixels = torch.rand(3, 3, 64, 48) * 2 - 1
    torch.manual_seed(1)
    latents = family.encode_images(vae, pixels)
    torch.manual_seed(1)
    one_by_one = torch.cat([family.encode_images(vae, pixel[None]) for pixel in pixels])
    assert latents.is_contiguous() and latents.shape == (3, 4, 8, 6)
    torch.testing.assert_close(latents, one_by_one, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_with_seeds_the_sample_of_an_image_depends_on_its_seed_alone(layouts):
    family = FAMILIES["sd1"]
    vae = family.load(str(layouts("sd1").folder)).vae
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    before = torch.get_rng_state()
    together = family.encode_images(vae, pixels, [1, 2])
    alone = family.encode_images(vae, pixels[1:], [2])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
