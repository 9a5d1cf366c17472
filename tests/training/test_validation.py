"""The loss on held-out images: smooth because nothing in it is drawn anew, and told with the file it belongs to."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from library.training.validation import Measured, Validation, ValidationSettings
from tests.tiny_runs import picture_folder, small_run

MAIN = SimpleNamespace(is_main_process=True)


class Record:
    """Stands where a Reporter would."""

    def __init__(self):
        self.losses, self.logged = SimpleNamespace(average=1.0), []

    def flush(self):
        pass

    def log(self, values, tracker_step, global_step, epoch):
        self.logged.append((values, tracker_step))


def test_each_measurement_is_kept(looked_at):
    results = looked_at(True).run.validation.results
    assert [(result.epoch, result.global_step) for result in results] == [(1, 2), (1, 3), (2, 4)]
    assert results[0].loss != results[-1].loss


def test_measuring_again_gives_the_same_whatever_was_drawn_in_between(looked_at):
    validation, record = looked_at(True).run.validation, Record()
    for number in (101, 102):
        torch.manual_seed(number)
        validation.after_epoch(record, epoch=number, global_step=number)
    (first, first_step), (second, second_step) = record.logged
    assert first == second and (first_step, second_step) == (101, 102)
    assert first["loss/validation/epoch_divergence"] == first["loss/validation/epoch_average"] - 1.0


def test_an_images_loss_does_not_depend_on_the_batch_it_comes_in(tiny_models, tmp_path):
    data = picture_folder(tmp_path / "data", 4, repeats=1)

    def loss(batch_size: int) -> float:
        options = ["--validation_split", "0.5", "--train_batch_size", str(batch_size), "--flip_aug", "--shuffle_caption"]
        record = Record()
        small_run(tiny_models("sd1"), data, tmp_path / "out", *options).validation.after_epoch(record, epoch=1, global_step=1)
        return record.logged[0][0]["loss/validation/epoch_average"]

    assert loss(1) == pytest.approx(loss(2), rel=1e-5)


def test_the_log_has_the_references_tags(looked_at):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (looked_at(True).out.parent / "logs").rglob("*network_train/events*")
    tags = {tag for tag in EventAccumulator(str(events)).Reload().Tags()["scalars"] if tag.startswith("loss/validation/")}
    assert tags == {f"loss/validation/{kind}" for kind in ("step_average", "step_divergence", "epoch_average", "epoch_divergence")}


def told(caplog, results: list[Measured], saved: dict[int, Path]) -> str:
    caplog.set_level(logging.INFO)
    Validation(None, ValidationSettings(seed=0), None, None, MAIN, results=results).tell_best(saved)
    return caplog.text


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({2: Path("out/b.safetensors")}, "lowest validation loss 0.2 at epoch 1, step 2: b.safetensors"),
        ({1: Path("a"), 3: Path("c")}, "step 2, where nothing was saved; of the saved files c has the lowest, 0.3"),
        ({}, "step 2, where nothing was saved"),
    ],
)
def test_the_best_save_is_told(caplog, saved, expected):
    results = [Measured(0.4, 1, 1), Measured(0.2, 1, 2), Measured(0.3, 2, 3), Measured(float("nan"), 2, 4)]
    assert expected in told(caplog, results, saved)


def test_nothing_is_told_where_nothing_was_measured(caplog):
    assert told(caplog, [], {1: Path("a")}) == ""
