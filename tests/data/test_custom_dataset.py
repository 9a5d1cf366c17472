"""--dataset_class: what a data set of one's own must be, and what becomes of its batches."""

import pytest
import torch

from library.data.custom_dataset import CustomGroup, batch_of, dataset_class
from library.data.loader import BatchLoader
from library.train_util import MinimalDataset


class Noise(MinimalDataset):
    """Two batches of two images each."""

    def __init__(self, *given):
        super().__init__(*given)
        self.batch_size = 2

    def __len__(self):
        return 2

    def __getitem__(self, number):
        images = torch.full((2, 3, 64, 128), number / 10)
        return {"captions": [f"{self.current_epoch} {self.current_step}", "b"], "images": images, "anything": 1}


def group(**options) -> CustomGroup:
    return CustomGroup(Noise(None, None, (128, 64)), "my.Noise", (128, 64), **{"strict_compat": False} | options)


def test_a_batch_is_filled_up_with_what_plain_images_have():
    batch = group()[1, 0, 1]
    assert batch.bucket == (128, 64) and batch.images.shape == (2, 3, 64, 128) and batch.latents is None
    assert batch.original_sizes_hw.tolist() == [[64, 128]] * 2 and batch.crop_top_lefts.tolist() == [[0, 0]] * 2
    assert batch.loss_weights.tolist() == [1.0, 1.0] and batch.flipped == [False, False] and batch.custom_attributes == [{}, {}]


def test_latents_go_before_images_and_have_the_size_of_their_pixels():
    batch = batch_of({"captions": ["a"], "images": torch.zeros(1, 3, 8, 8), "latents": torch.zeros(1, 4, 8, 16)}, "x", 0)
    assert batch.images is None and batch.bucket == (128, 64) and batch.target_sizes_hw.tolist() == [[64, 128]]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_class_is_told_epoch_and_step_before_it_makes_a_batch(workers):
    loader = BatchLoader(group(), workers=workers, persistent_workers=False, shuffle=False, strict_compat=False, seed=0)
    assert [batch.captions[0] for batch in loader.epoch(3, first_step=10)] == ["3 10", "3 11"]


def test_with_strict_compat_it_is_told_a_batch_late_as_in_the_reference():
    loader = BatchLoader(group(strict_compat=True), workers=0, persistent_workers=False, shuffle=False, strict_compat=True, seed=0)
    assert [batch.captions[0] for batch in loader.epoch(3)] == ["0 0", "3 0"]


def test_captions_become_ids_unless_the_class_brings_them():
    custom = group()
    custom.set_tokenize(lambda captions: ([torch.zeros(len(captions), 1, 77)], None))
    assert custom[1, 0, 0].input_ids[0].shape == (2, 1, 77)
    custom.dataset = [{"captions": ["a"], "images": torch.zeros(1, 3, 8, 8), "input_ids_list": ["own"]}]
    assert custom[1, 0, 0].input_ids == ["own"]


def test_images_are_counted_by_batch_size():
    assert group().num_train_images == group().samples_per_epoch == 4
    assert group().latents_cacheable() and group().text_states_cacheable()


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ([1], "must be a dict"),
        ({"images": torch.zeros(1, 3, 8, 8)}, "captions are missing"),
        ({"captions": ["a"]}, "images or latents are missing"),
        ({"captions": ["a", "b"], "images": torch.zeros(1, 3, 8, 8)}, "one row for each of the 2 captions"),
        ({"captions": ["a"], "latents": torch.zeros(1, 8, 8)}, r"four dimensions.*got \(1, 8, 8\)"),
        ({"captions": ["a"], "latents": torch.zeros(1, 4, 8, 8), "text_encoder_outputs_list": [1]}, "hand over captions"),
    ],
)
def test_an_item_that_is_no_batch_is_refused_with_its_number(item, said):
    with pytest.raises(ValueError, match=f"my.Noise, batch 7: .*{said}"):
        batch_of(item, "my.Noise", 7)


@pytest.mark.parametrize(("dataset", "said"), [(object(), "has no __len__"), ([], "is empty"), ({1}, "has no __getitem__")])
def test_an_object_that_is_no_data_set_is_refused(dataset, said):
    with pytest.raises(ValueError, match=f"x.Y.*{said}"):
        CustomGroup(dataset, "x.Y", (64, 64), strict_compat=False)


@pytest.mark.parametrize(
    ("name", "said"), [("Noise", "give the module"), ("no_such.Noise", "'no_such'"), ("os.Noise", "os has no Noise")]
)
def test_a_class_that_is_not_there_is_named(name, said):
    with pytest.raises(ValueError, match=said):
        dataset_class(name)
