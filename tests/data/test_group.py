import pytest

from library.data.group import DatasetGroup
from library.data.subsets import Subset
from tests.data.scenes import dataset, paint, record

TABLE = """\
Data set 1 of 2: resolution 128x128, batch size 4
  bucket     size  images  batches  part-filled
       0   64x192       4        1            0
       1  128x128      10        3            1
  (images: repeats included; part-filled: batches smaller than the batch size)
  training images        2, 12 with repeats
  regularisation images  1, 2 with repeats
  samples per epoch      14
  batches per epoch      4  (steps, on one GPU without gradient accumulation)
  of these part-filled   1

Data set 2 of 2: resolution 64x64, batch size 1, no buckets
  bucket   size  images  batches  part-filled
       0  64x64       1        1            0
  (images: repeats included; part-filled: batches smaller than the batch size)
  training images        1, 1 with repeats
  regularisation images  0, 0 with repeats
  samples per epoch      1
  batches per epoch      1  (steps, on one GPU without gradient accumulation)
  of these part-filled   0

All data sets
  training images        3, 13 with repeats
  regularisation images  1, 2 with repeats
  samples per epoch      15
  batches per epoch      5  (steps, on one GPU without gradient accumulation)
  of these part-filled   1"""


@pytest.fixture
def group(tmp_path):
    def item(name, size, **values):
        return record(paint(tmp_path / name, size), Subset(image_dir=str(tmp_path / name)), size, **values)

    first = [item("tall.png", (50, 150), num_repeats=4), item("even.png", (80, 80), num_repeats=8)]
    first.append(item("reg.png", (128, 128), num_repeats=2, is_reg=True))
    second = [item("small.png", (64, 64))]
    settings = {"batch_size": 4, "resolution": (128, 128), "max_bucket_reso": 256}
    return DatasetGroup([dataset(first, **settings), dataset(second, index=1, enable_bucket=False)])


def test_the_table_tells_what_an_epoch_consists_of(group):
    assert group.table() == TABLE


def test_the_batches_of_all_data_sets_share_one_index_space(group):
    places = [(batch.dataset_index, batch.batch_index) for batch in (group[1, 0, number] for number in range(len(group)))]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert (group.num_train_images, group.num_reg_images) == (13, 2)


def test_nothing_to_train_on_is_an_error_that_lists_where_was_looked():
    empty = dataset([])
    empty.settings.subsets += [Subset(image_dir="cats", num_repeats=10), Subset(metadata_file="meta.json")]
    with pytest.raises(ValueError, match=r"(?s)no training image was found.*cats \(there is no such folder\).*meta.json \(num_repeats 1\)"):
        DatasetGroup([empty])
    with pytest.raises(ValueError, match="--train_data_dir"):
        DatasetGroup([dataset([])])


def test_bucket_steps_that_a_model_cannot_take_are_refused(group):
    group.datasets[0].settings.bucket_reso_steps = 32
    group.datasets[1].settings.bucket_reso_steps = 8    # has no buckets: not looked at
    group.check_bucket_steps(32)
    with pytest.raises(ValueError, match="--bucket_reso_steps is 32 in data set 1, but this model needs a multiple of 64"):
        group.check_bucket_steps(64)


def test_options_that_forbid_caching_are_named_with_their_subset(group):
    assert group.latents_cacheable() == group.text_states_cacheable() == []
    subset = group.datasets[1].subsets[0]
    subset.random_crop = subset.shuffle_caption = True
    assert len(group.latents_cacheable()) == len(group.text_states_cacheable()) == 1
    assert group.latents_cacheable()[0].startswith("--random_crop in ") and "small.png" in group.latents_cacheable()[0]
    assert group.text_states_cacheable()[0].startswith("--shuffle_caption in ")
