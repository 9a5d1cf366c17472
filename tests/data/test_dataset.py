from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from library.data.images import load_image
from library.data.pixels import to_bytes
from library.data.subsets import Subset
from tests.data.scenes import dataset, paint, painted_group, record


def one_batch(records, **settings):
    return dataset(records, batch_size=len(records), **settings).batch(0, epoch=1, step=0)


def test_a_batch_holds_one_bucket_and_the_last_of_a_bucket_may_be_smaller(tmp_path):
    group = painted_group(tmp_path, 2, sizes=((64, 64), (128, 64)), batch_size=2, resolution=(128, 64))
    batches = [group[1, 0, number] for number in range(len(group))]
    assert sorted((batch.bucket, len(batch)) for batch in batches) == [((64, 64), 1), ((64, 64), 2), ((128, 64), 1), ((128, 64), 2)]
    assert all(batch.images.shape[-2:] == batch.bucket[::-1] for batch in batches)


def test_every_image_occurs_as_often_as_it_is_repeated(tmp_path):
    data = painted_group(tmp_path, 5, batch_size=2).datasets[0]
    for epoch in (1, 2):
        counts = Counter(key for index in range(len(data)) for key in data.batch(index, epoch=epoch, step=0).image_keys)
        assert set(counts.values()) == {3} and len(counts) == 5


def test_a_batch_depends_on_seed_epoch_and_number_alone(tmp_path):
    subset = Subset(image_dir=str(tmp_path), num_repeats=2, flip_aug=True, shuffle_caption=True)
    first, second = (painted_group(tmp_path, 5, subset=subset, batch_size=2).datasets[0] for _ in range(2))
    second.batch(0, epoch=7, step=0)
    ours, theirs = (data.batch(3, epoch=2, step=0) for data in (first, second))
    assert (ours.image_keys, ours.captions, ours.flipped) == (theirs.image_keys, theirs.captions, theirs.flipped)


def test_an_uncropped_image_arrives_as_it_is(tmp_path):
    path = paint(tmp_path / "a.png")
    batch = one_batch([record(path, Subset())])
    torch.testing.assert_close(batch.images[0], to_bytes(load_image(path)))
    assert (batch.captions, batch.crop_top_lefts.tolist()) == (["a picture, a, red, green, blue"], [[0, 0]])


def test_regularisation_images_have_their_own_weight(tmp_path):
    records = [record(paint(tmp_path / f"{name}.png"), Subset(is_reg=is_reg)) for name, is_reg in (("a", False), ("r", True))]
    batch = one_batch(records, prior_loss_weight=0.3, network_multiplier=0.5)
    weights = dict(zip(batch.image_keys, batch.loss_weights.tolist(), strict=True))
    assert [weights[item.key] for item in records] == pytest.approx([1.0, 0.3])
    assert batch.network_multipliers.tolist() == [0.5, 0.5]


def test_an_image_without_a_mask_gets_ones_beside_one_that_has_it(tmp_path):
    masked, plain = paint(tmp_path / "masked.png", mode="RGBA"), paint(tmp_path / "plain.png")
    batch = one_batch([record(masked, Subset(alpha_mask=True)), record(plain, Subset())])
    masks = dict(zip(batch.image_keys, batch.alpha_masks, strict=True))
    torch.testing.assert_close(masks[str(plain)], torch.ones(64, 64))
    torch.testing.assert_close(masks[str(masked)].numpy(), np.asarray(Image.open(masked))[:, :, 3].astype(np.float32) / 255)


def test_a_flipped_image_takes_its_mask_along(tmp_path, monkeypatch):
    path = paint(tmp_path / "a.png", mode="RGBA")
    monkeypatch.setattr("library.data.augment.FLIP_CHANCE", 1.0)
    batch = one_batch([record(path, Subset(alpha_mask=True, flip_aug=True))])
    image = load_image(path, with_alpha=True)
    torch.testing.assert_close(batch.images[0].flip(-1), to_bytes(image))
    torch.testing.assert_close(batch.alpha_masks[0].flip(-1).numpy(), image[:, :, 3].astype(np.float32) / 255)


@pytest.mark.parametrize("strict_compat", [False, True])
def test_a_conditioning_image_is_cut_like_its_image_and_squeezed_only_in_strict_compat(tmp_path, strict_compat):
    path = paint(tmp_path / "a.png", (96, 64))
    item = record(path, Subset(), (96, 64), conditioning_path=path)
    batch = one_batch([item], strict_compat=strict_compat, max_bucket_reso=64)
    assert batch.images.shape == batch.conditioning_images.shape == (1, 3, 64, 64)
    assert torch.equal(batch.images, batch.conditioning_images) is not strict_compat


def test_a_conditioning_image_of_another_size_is_refused_by_name(tmp_path):
    item = record(paint(tmp_path / "a.png"), Subset(), conditioning_path=paint(tmp_path / "mask.png", (32, 64)))
    with pytest.raises(ValueError, match="mask.png is 32x64 but its training image .*a.png is 64x64"):
        one_batch([item])


def test_random_crop_is_told_to_the_model_and_in_strict_compat_is_not(tmp_path):
    subset = Subset(image_dir=str(tmp_path), random_crop=True)
    for strict_compat, expected in ((False, True), (True, False)):
        path = paint(tmp_path / "a.png", (64, 90))
        data = dataset([record(path, subset, (64, 90))], strict_compat=strict_compat, max_bucket_reso=64)
        data.set_seed(0)
        tops = {data.batch(0, epoch=epoch, step=0).crop_top_lefts[0, 0].item() for epoch in range(1, 9)}
        assert (len(tops) > 1) is expected


def test_captions_are_tokenised_once_for_the_batch(tmp_path):
    data = painted_group(tmp_path, 2, batch_size=6).datasets[0]
    data.tokenize = lambda captions: ([torch.tensor([len(caption) for caption in captions])], None)
    batch = data.batch(0, epoch=1, step=0)
    assert batch.input_ids[0].tolist() == [len(caption) for caption in batch.captions]


def test_an_unknown_interpolation_is_refused_when_the_data_set_is_built(tmp_path):
    with pytest.raises(ValueError, match="--resize_interpolation 'sinc'"):
        dataset([record(tmp_path / "a.png", Subset(resize_interpolation="sinc"))])


def test_bucket_info_counts_repeats(tmp_path):
    data = painted_group(tmp_path, 3, sizes=((64, 64), (64, 64), (64, 128))).datasets[0]
    assert data.bucket_info == {"buckets": {0: {"resolution": (64, 64), "count": 9}}, "mean_img_ar_error": pytest.approx(1 / 6)}
    assert painted_group(tmp_path, 3, enable_bucket=False).datasets[0].bucket_info is None
