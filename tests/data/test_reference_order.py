"""strict_compat: the order of data is that of sd-scripts, batch for batch, checked against recorded runs."""

import dataclasses
import gzip
import json
import os
import random
from pathlib import Path

import pytest
import torch

from library.data.dataset import ImageDataset
from library.data.group import DatasetGroup
from library.data.loader import BatchLoader
from library.data.pixels import colors
from library.data.registration import register_images
from library.data.subsets import DatasetSettings, Subset
from tests.data.scenes import painted_group

GOLDEN = Path(__file__).parents[1] / "golden"
DATASET_SEED = 478163327    # what --seed 42 draws
PERMUTATION = [[2], [4, 3], [1, 4], [0, 3], [2, 0], [3, 0], [1, 4], [1, 2]]


def numbers(batches) -> list[list[int]]:
    return [[int(Path(key).stem[1:]) for key in batch.image_keys] for batch in batches]


@pytest.mark.parametrize(
    "workers, delivered", [(0, [[1, 3], *PERMUTATION[1:]]), (1, [[1, 3], *PERMUTATION[1:]]), (2, [[1, 3], [3, 0], *PERMUTATION[2:]])]
)
def test_the_first_batch_of_each_process_comes_from_an_older_layout(tmp_path, monkeypatch, workers, delivered):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    group = painted_group(tmp_path, strict_compat=True, batch_size=2, seed=DATASET_SEED)
    torch.manual_seed(42)
    loader = BatchLoader(group, workers=workers, persistent_workers=False, shuffle=True, strict_compat=True, seed=DATASET_SEED)
    assert numbers(loader.epoch(1)) == delivered


def test_building_leaves_python_s_random_numbers_in_the_state_of_sd_scripts(tmp_path):
    random.seed(42)
    assert random.randint(0, 2**31) == DATASET_SEED
    painted_group(tmp_path, strict_compat=True, batch_size=2, seed=DATASET_SEED)
    assert random.random() == 0.3101475693193326


def test_an_epoch_costs_two_draws_of_the_global_torch_generator(tmp_path):
    group = painted_group(tmp_path, strict_compat=True, batch_size=2)
    torch.manual_seed(42)
    list(BatchLoader(group, workers=0, persistent_workers=True, shuffle=True, strict_compat=True, seed=0).epoch(1))
    after = torch.get_rng_state()
    torch.manual_seed(42)
    assert [int(torch.empty((), dtype=torch.int64).random_()) for _ in range(2)] == [6909045637428952499, 8314211556539077902]
    assert torch.equal(torch.get_rng_state(), after)


def train_folder(data: Path, **values) -> Subset:
    values = {"num_repeats": 3, "class_tokens": "sks thing", "caption_extension": ".txt"} | values
    return Subset(image_dir=str(data / "train" / "3_sks thing"), **values)


def as_recorded(*subsets: Subset, **values) -> DatasetSettings:
    values = {"resolution": (128, 128), "batch_size": 2, "enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 256} | values
    return DatasetSettings(list(subsets), **values)


def settings_of(run: str, data: Path) -> list[DatasetSettings]:
    """The data sets that the recorded run's command line describes."""
    reg = Subset(image_dir=str(data / "reg" / "1_thing"), is_reg=True, class_tokens="thing", caption_extension=".txt")
    shuffled = {"shuffle_caption": True, "keep_tokens": 1}
    sky = Subset(image_dir=str(data / "extra" / "2_blue sky"), num_repeats=4, random_crop=True, caption_extension=".txt")
    return {
        "a_accum3": lambda: [as_recorded(train_folder(data))],
        "a_validation": lambda: [as_recorded(train_folder(data), validation_split=0.25, validation_seed=3)],
        "f_token_warmup": lambda: [as_recorded(train_folder(data, token_warmup_min=1, token_warmup_step=8.0), batch_size=1)],
        "g_alpha_mask": lambda: [as_recorded(train_folder(data, alpha_mask=True))],
        "g_color": lambda: [as_recorded(train_folder(data, color_aug=True))],
        "g_random_crop": lambda: [as_recorded(train_folder(data, random_crop=True))],
        "r_reg_shuffle": lambda: [
            as_recorded(train_folder(data, **shuffled), dataclasses.replace(reg, **shuffled), prior_loss_weight=0.5)
        ],
        "n_toml_two_datasets": lambda: [
            as_recorded(train_folder(data, num_repeats=1), batch_size=1),
            as_recorded(sky, batch_size=3, resolution=(192, 128), network_multiplier=0.5),
        ],
    }[run]()


class Replay:
    """A recorded run without its model: the loop of the trainer with data alone."""

    def __init__(self, run: str):
        self.recorded = json.loads(gzip.decompress((GOLDEN / "runs" / f"{run}.json.gz").read_bytes()))
        args = self.recorded["args"]
        self.accumulation = int(args[args.index("--gradient_accumulation_steps") + 1]) if "--gradient_accumulation_steps" in args else 1
        settings = settings_of(run, GOLDEN / "dataset")
        self.group = self._group(settings, validation=False)
        self.validation = self._group(settings, validation=True) if settings[0].validation_split else None
        self.group.set_seed(DATASET_SEED)
        if self.validation:
            self.validation.set_seed(DATASET_SEED)
        options = {"workers": 0, "persistent_workers": False, "strict_compat": True, "seed": 0}
        self.loader = BatchLoader(self.group, shuffle=True, **options)
        if self.validation:
            self.validation_loader = BatchLoader(self.validation, shuffle=False, counters=self.loader.counters, **options)

    def _group(self, settings: list[DatasetSettings], validation: bool) -> DatasetGroup:
        registered = [register_images(item, validation=validation, strict_compat=True) for item in settings]
        return DatasetGroup(
            [ImageDataset(s, r, index=i, strict_compat=True) for i, (s, r) in enumerate(zip(settings, registered, strict=True))]
        )

    def batches(self):
        """Pairs of our batch and the recorded step. The order of an epoch, which depends on the model's draws, is given."""
        steps, length, done, global_step = self.recorded["steps"], len(self.loader), 0, 0
        firsts = [0, len(self.group.datasets[0])]
        while done < len(steps):
            known = [firsts[step["dataset"]] + step["index"] for step in steps[done : done + length]]
            self.loader._sampler.order = known + [number for number in range(length) if number not in known]
            for position, batch in enumerate(self.loader.epoch(done // length + 1), start=1):
                self.loader.note_step(global_step)
                if done == len(steps):
                    return
                yield batch, steps[done]
                done += 1
                global_step += position % self.accumulation == 0 or position == length
                if self.validation and global_step == 5:
                    random_state = random.getstate()
                    list(self.validation_loader.epoch(1))
                    random.setstate(random_state)


RUNS = ["a_accum3", "a_validation", "f_token_warmup", "g_alpha_mask", "g_color", "g_random_crop", "r_reg_shuffle", "n_toml_two_datasets"]


@pytest.mark.parametrize("run", RUNS)
def test_a_recorded_run_is_replayed(run):
    for batch, step in Replay(run).batches():
        assert [Path(key).name for key in batch.image_keys] == step["images"]
        assert (batch.captions, batch.flipped, list(batch.bucket)) == (step["captions"], step["flipped"], step["bucket"])
        assert (batch.batch_index, batch.dataset_index) == (step["index"], step["dataset"])
        assert (batch.epoch, batch.step) == (step["dataset_epoch"], step["dataset_step"])
        assert batch.loss_weights.tolist() == step["loss_weights"]
        for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw"):
            assert getattr(batch, name).tolist() == step[name]
        for pixels, recorded in zip(colors(batch.images), step["image_stat"], strict=True):
            ours = [float(pixels.mean()), float(pixels.std()), *pixels.flatten()[:4].tolist()]
            assert ours == pytest.approx([recorded["mean"], recorded["std"], *recorded["first"]], abs=1e-4)
