import logging
import os
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from library.data.latent_cache import cache_latents
from library.data.latent_files import read_latents
from library.data.pixels import colors
from library.data.subsets import Subset
from tests.data.scenes import cut_off, paint, painted_group

SD = {"to_disk": True, "suffix": "_sd.npz", "batch_size": 2}
MEMORY = SD | {"to_disk": False}


class Encoder:
    """Stands for the VAE: means of 8x8 pixels, and in the fourth channel the number of the call."""

    def __init__(self):
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.batches.append(tuple(pixels.shape))
        means = torch.nn.functional.avg_pool2d(pixels, 8)
        return torch.cat([means, torch.full_like(means[:, :1], len(self.batches))], dim=1)


def records(group):
    return list(group.datasets[0].records.values())


def npz(group, number: int = 0) -> dict[str, np.ndarray]:
    with np.load(records(group)[number].latents_npz) as arrays:
        return dict(arrays)


def rewrite(path, **changes) -> None:
    """Changes arrays of a cache file; None removes one."""
    with np.load(path) as arrays:
        kept = {**arrays, **changes}
    np.savez(path, **{key: value for key, value in kept.items() if value is not None})


def encoded_again(group, **options) -> int:
    """How many images the encoder sees when the group is cached another time."""
    encoder = Encoder()
    cache_latents(group, encoder, **(SD | options))
    return sum(batch[0] for batch in encoder.batches)


@pytest.fixture
def cached(tmp_path):
    group = painted_group(tmp_path, 3)
    cache_latents(group, Encoder(), **SD)
    return group


def test_files_have_the_names_keys_and_types_of_sd_scripts(tmp_path):
    subset = Subset(image_dir=str(tmp_path), flip_aug=True, alpha_mask=True)
    group = painted_group(tmp_path, 1, sizes=((70, 96),), subset=subset, mode="RGBA", max_bucket_reso=64)
    cache_latents(group, Encoder(), **SD)
    assert records(group)[0].latents_npz == tmp_path / "i0_0070x0096_sd.npz"
    arrays = npz(group)
    assert arrays["original_size"].tolist() == [70, 96] and arrays["original_size"].dtype.kind == "i"
    assert arrays["crop_ltrb"].tolist() == pytest.approx([8, 0, 8 + 64 * 70 / 96, 64])
    shapes = {key: (arrays[key].shape, arrays[key].dtype.name) for key in ("latents", "latents_flipped", "alpha_mask")}
    assert shapes == {"latents": ((4, 8, 8), "float32"), "latents_flipped": ((4, 8, 8), "float32"), "alpha_mask": ((64, 64), "float32")}


@pytest.mark.parametrize("options", [SD, MEMORY])
def test_training_on_cached_latents_gives_what_was_encoded(tmp_path, options):
    group = painted_group(tmp_path, 3, batch_size=3)
    cache_latents(group, Encoder(), **options)
    plain, cached = painted_group(tmp_path, 3, batch_size=3)[1, 0, 0], group[1, 0, 0]
    assert cached.images is None and cached.image_keys == plain.image_keys
    torch.testing.assert_close(cached.latents[:, :3], torch.nn.functional.avg_pool2d(colors(plain.images), 8))
    for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw"):
        assert torch.equal(getattr(cached, name), getattr(plain, name))


@pytest.mark.parametrize("strict_compat", [False, True])
@pytest.mark.parametrize("options", [SD, MEMORY])
def test_sizes_told_to_sdxl_are_the_same_with_and_without_a_cache(tmp_path, options, strict_compat):
    subset = Subset(image_dir=str(tmp_path), flip_aug=True)
    values = {"sizes": ((70, 100), (100, 70)), "subset": subset, "strict_compat": strict_compat, "max_bucket_reso": 64, "batch_size": 4}
    batches = []
    for caching in (True, False):
        group = painted_group(tmp_path, 4, **values)
        if caching:
            cache_latents(group, Encoder(), **options)
        batches.append(group.datasets[0].batch(0, epoch=1, step=0))
    assert batches[0].latents is not None and any(batches[0].flipped)
    for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw"):
        assert torch.equal(*(getattr(batch, name) for batch in batches))


@pytest.mark.parametrize("options", [SD, MEMORY])
def test_a_flipped_image_uses_its_own_encoding_made_after_the_plain_ones(tmp_path, monkeypatch, options):
    monkeypatch.setattr("library.data.augment.FLIP_CHANCE", 1.0)
    group = painted_group(tmp_path, 2, subset=Subset(image_dir=str(tmp_path), flip_aug=True), batch_size=2)
    cache_latents(group, Encoder(), **options)
    batch = group[1, 0, 0]
    assert batch.flipped == [True, True] and (batch.latents[:, 3] == 2).all()


def test_a_mask_is_kept_with_the_latents_and_mirrored_with_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr("library.data.augment.FLIP_CHANCE", 1.0)
    subset = Subset(image_dir=str(tmp_path), flip_aug=True, alpha_mask=True)
    group = painted_group(tmp_path, 1, subset=subset, mode="RGBA")
    expected = group[1, 0, 0].alpha_masks
    cache_latents(group, Encoder(), **SD)
    torch.testing.assert_close(group[1, 0, 0].alpha_masks, expected)
    subset.alpha_mask = False
    assert group[1, 0, 0].alpha_masks is None


def test_in_strict_compat_buckets_of_one_area_take_turns(tmp_path):
    shapes = []
    for strict_compat in (True, False):
        encoder = Encoder()
        group = painted_group(tmp_path, 4, sizes=((128, 64), (64, 128)), strict_compat=strict_compat, resolution=(128, 64))
        cache_latents(group, encoder, **MEMORY)
        shapes.append([(batch[0], batch[-1]) for batch in encoder.batches])
    assert shapes == [[(1, 128), (1, 64), (1, 128), (1, 64)], [(2, 64), (2, 128)]]


def test_smaller_buckets_come_first_and_full_batches_are_encoded_at_once(tmp_path):
    encoder = Encoder()
    cache_latents(painted_group(tmp_path, 6, sizes=((128, 128), (192, 64)), resolution=(128, 128)), encoder, **MEMORY)
    assert [(batch[0], batch[-1]) for batch in encoder.batches] == [(2, 192), (1, 192), (2, 128), (1, 128)]


def test_what_is_cached_is_not_encoded_again(cached):
    assert encoded_again(cached) == 0


def test_a_cut_off_run_goes_on_where_it_stopped(tmp_path):
    group = painted_group(tmp_path, 5)
    encoder = Encoder()

    def stops(pixels):
        if len(encoder.batches) == 2:
            raise KeyboardInterrupt
        return encoder(pixels)

    with pytest.raises(KeyboardInterrupt):
        cache_latents(group, stops, **SD)
    assert len(list(tmp_path.glob("*.npz"))) == 4 and not list(tmp_path.glob(".*"))
    assert encoded_again(group) == 1


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"latents": np.zeros((4, 4, 8), np.float32)}, "of 64x32 pixels"),
        ({"latents": None}, "without latents"),
        ({"crop_ltrb": None}, "without crop_ltrb"),
        ({"source": None, "latents": np.full((4, 8, 8), np.nan, np.float32)}, "with NaN"),
    ],
)
def test_a_file_that_does_not_fit_is_made_again_with_a_word_why(cached, caplog, change, reason):
    rewrite(records(cached)[1].latents_npz, **change)
    with caplog.at_level(logging.WARNING):
        assert encoded_again(cached) == 1
    assert reason in caplog.text and "i1_0064x0064_sd.npz" in caplog.text


def test_a_damaged_file_is_made_again(cached, caplog):
    path = records(cached)[0].latents_npz
    path.write_bytes(path.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        assert encoded_again(cached) == 1
    assert "damaged" in caplog.text and npz(cached)["latents"].shape == (4, 8, 8)


def test_a_damaged_file_met_in_training_is_named(cached):
    path = records(cached)[0].latents_npz
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=path.name):
        read_latents(path, flipped=False, alpha_mask=False)


def test_a_changed_image_is_encoded_again(cached):
    paint(records(cached)[2].path, seed=99)
    assert encoded_again(cached) == 1


def test_a_copied_image_is_not(cached):
    path = records(cached)[2].path
    os.utime(path, (2e9, 2e9))
    assert encoded_again(cached) == 0


def test_another_vae_or_interpolation_makes_all_anew(cached):
    assert encoded_again(cached, vae_id="a") == 0      # was cached without naming the VAE
    cached.datasets[0].settings.resize_interpolation = "area"
    assert encoded_again(cached, vae_id="a") == 3
    assert encoded_again(cached, vae_id="b") == 3


def test_flipping_wants_both_encodings(cached):
    cached.datasets[0].subsets[0].flip_aug = True
    assert encoded_again(cached) == 6
    assert encoded_again(cached) == 0


def test_a_file_of_sd_scripts_is_taken_unless_it_is_older_than_the_image(cached):
    path = records(cached)[0].latents_npz
    rewrite(path, source=None)
    assert encoded_again(cached) == 0
    os.utime(path, (0, 0))
    assert encoded_again(cached) == 1


def test_skip_cache_check_takes_whatever_is_there(cached):
    rewrite(records(cached)[0].latents_npz, latents=None)
    assert encoded_again(cached, skip_check=True) == 0


def test_the_name_of_old_versions_is_honoured_if_it_is_a_latent_cache(cached, tmp_path):
    shutil.move(records(cached)[0].latents_npz, tmp_path / "i0.npz")
    np.savez(tmp_path / "i1.npz", something=np.zeros(3))
    assert encoded_again(cached) == 0
    assert [item.latents_npz.name for item in records(cached)[:2]] == ["i0.npz", "i1_0064x0064_sd.npz"]


def test_images_of_one_stem_do_not_share_a_file(tmp_path):
    group = painted_group(tmp_path, 1)
    item = records(group)[0]
    twin = tmp_path / "i0.webp"
    paint(twin, seed=5)
    group.datasets[0].records[str(twin)] = type(item)(str(twin), twin, "", item.subset, 1, size=(64, 64), bucket=(64, 64), resized=(64, 64))
    assert encoded_again(group) == 2
    assert [item.latents_npz.name for item in records(group)] == ["i0_0064x0064_sd.npz", "i0.webp_0064x0064_sd.npz"]
    assert encoded_again(group) == 0


def test_data_sets_of_two_resolutions_do_not_share_a_file(tmp_path):
    small, large = (painted_group(tmp_path, 1, resolution=(side, side)) for side in (64, 128))
    small.datasets.append(large.datasets[0])
    assert encoded_again(small) == 2
    assert [small[1, 0, number].latents.shape[-1] for number in (0, len(small) - 1)] == [8, 8]
    assert [large[1, 0, number].latents.shape[-1] for number in (0, len(large) - 1)] == [16, 16]
    assert encoded_again(small) == 0


def test_processes_share_the_work(tmp_path):
    group = painted_group(tmp_path, 5)
    assert [encoded_again(group, rank=rank, world=2) for rank in range(2)] == [3, 2]
    assert encoded_again(group) == 0


def test_nan_from_the_vae_stops_with_the_image_s_name_and_a_way_out(tmp_path):
    group = painted_group(tmp_path, 1)
    with pytest.raises(ValueError, match="i0.png.*--no_half_vae"):
        cache_latents(group, lambda pixels: torch.full((len(pixels), 4, 8, 8), torch.nan), **SD)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("options", [SD, MEMORY])
def test_all_images_that_cannot_be_decoded_are_told_and_the_others_cached(tmp_path, options):
    group = painted_group(tmp_path, 4)
    for name in ("i1.png", "i3.png"):
        cut_off(tmp_path / name)
    bad = cache_latents(group, Encoder(), **options)
    assert [os.path.basename(key) for key in bad] == ["i1.png", "i3.png"] and all("truncated" in reason for reason in bad.values())
    group.drop(bad)
    assert len(records(group)) == 2 and group[1, 0, 0].latents is not None


def test_latents_in_memory_are_shared_with_workers_that_are_started_afresh(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "get_start_method", lambda: "spawn")
    group = painted_group(tmp_path, 3)
    cache_latents(group, Encoder(), **MEMORY)
    latents = [item.latents for item in records(group)]
    assert all(tensor.is_shared() for tensor in latents)
    assert len({tensor.untyped_storage().data_ptr() for tensor in latents}) == 1
