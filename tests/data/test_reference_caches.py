"""Cache files as sd-scripts writes them, made here with numpy alone from their description: they are used as they are."""

import numpy as np
import pytest
import torch

from library.data.latent_cache import cache_latents
from library.data.subsets import Subset
from library.data.text_cache import TextFiles, cache_text_states
from tests.data.scenes import painted_group

SIZE, BUCKET = (100, 64), (128, 64)  # width, height: as found on disk, as trained
CROP = (0.0, -8.5, 128.0, 72.5)  # left, top, right, bottom: where sd-scripts believes the image to lie in its bucket


def reference_latents(seed: int) -> dict[str, np.ndarray]:
    """All arrays that sd-scripts can put into a file of SD or SDXL latents, C, h, w; masks in pixels."""
    rng = np.random.default_rng(seed)
    width, height = BUCKET
    return {
        "latents": rng.normal(size=(4, height // 8, width // 8)).astype(np.float32),
        "original_size": np.array(SIZE),
        "crop_ltrb": np.array(CROP),
        "latents_flipped": rng.normal(size=(4, height // 8, width // 8)).astype(np.float32),
        "alpha_mask": rng.random((height, width)).astype(np.float32),
    }


def refused(*given):
    raise AssertionError("encoded again")


@pytest.mark.parametrize("flipped", [False, True], ids=["plain", "flipped"])
@pytest.mark.parametrize("strict_compat", [False, True], ids=["ours", "strict"])
@pytest.mark.parametrize("suffix", ["_sd.npz", "_sdxl.npz"])
@pytest.mark.parametrize("name", ["i0_0100x0064{suffix}", "i0.npz"], ids=["name", "old name"])
def test_latents_are_taken_with_sizes_flip_and_mask(name, suffix, strict_compat, flipped, tmp_path, monkeypatch):
    subset = Subset(image_dir=str(tmp_path), flip_aug=True, alpha_mask=True)
    group = painted_group(tmp_path, 1, sizes=(SIZE,), subset=subset, mode="RGBA", resolution=BUCKET, strict_compat=strict_compat)
    arrays = reference_latents(1)
    np.savez(tmp_path / name.format(suffix=suffix), **arrays)
    cache_latents(group, refused, to_disk=True, suffix=suffix, batch_size=1)
    monkeypatch.setattr("library.data.augment.FLIP_CHANCE", float(flipped))
    batch = group[1, 0, 0] if not strict_compat else group[0]
    assert batch.flipped == [flipped] and batch.original_sizes_hw.tolist() == [list(SIZE[::-1])]
    assert np.array_equal(batch.latents[0], arrays["latents_flipped" if flipped else "latents"])
    mask = arrays["alpha_mask"]
    assert np.array_equal(batch.alpha_masks[0], mask[:, ::-1] if flipped else mask)
    if strict_compat:
        assert batch.crop_top_lefts.tolist() == [[int(CROP[1]), 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_text_states_of_sdxl_are_taken(dtype, tmp_path):
    group = painted_group(tmp_path, 1)
    rng = np.random.default_rng(1)
    shapes = {"hidden_state1": (77, 768), "hidden_state2": (77, 1280), "pool2": (1280,)}
    arrays = {key: rng.normal(size=shape).astype(dtype) for key, shape in shapes.items()}
    np.savez(tmp_path / "i0_te_outputs.npz", **arrays)
    cache_text_states(group, refused, files=TextFiles(suffix="_te_outputs.npz", first_width=768, token_length=77))
    states = group[1, 0, 0].text_states
    wanted = np.concatenate([arrays["hidden_state1"], arrays["hidden_state2"]], axis=1)
    assert torch.equal(states["prompt_embeds"][0], torch.from_numpy(wanted))
    assert torch.equal(states["pooled_prompt_embeds"][0], torch.from_numpy(arrays["pool2"]))
