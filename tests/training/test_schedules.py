"""The schedule's line and picture agree with the rates that training uses."""

from argparse import Namespace

import pytest

from library.training.schedules import (
    build_schedule,
    draw_preview,
    full_rate,
    preview,
    rate_factors,
    schedule_options,
    summary,
    trial_optimizer,
)
from tests.training.options import network_options


@pytest.fixture
def options():
    def given(**values) -> Namespace:
        return network_options(learning_rate=1e-3, **values)

    return given


def line_of(args: Namespace, steps: int) -> str:
    return str(summary(schedule_options(args, steps, 1), args.lr_scheduler_type, full_rate(args)))


@pytest.mark.parametrize(
    "values, mean",
    [
        ({}, 1.0),
        ({"lr_scheduler": "cosine"}, 0.5),
        ({"lr_scheduler": "cosine", "lr_scheduler_min_lr_ratio": 0.2}, 0.6),
        ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 4, "lr_scheduler_min_lr_ratio": 0.1}, 0.55),
    ],
)
def test_the_mean_factor_tells_how_much_a_schedule_learns(options, values, mean):
    args = options(**values)
    assert summary(schedule_options(args, 10_000, 1), "", 1e-3).mean_factor == pytest.approx(mean, abs=1e-3)


def test_the_line_names_peak_floor_and_the_equal_constant_rate(options):
    line = line_of(options(lr_scheduler="cosine_with_restarts", lr_scheduler_num_cycles=2, lr_warmup_steps=10), 1000)
    assert line.startswith("cosine_with_restarts, 2 cycles, 10 warm-up steps: peak 0.001, floor 0, mean factor 0.5")


def test_a_class_is_shown_by_the_rates_it_gives(options):
    args = options(lr_scheduler_type="StepLR", lr_scheduler_args=["step_size=2", "gamma=0.5"])
    assert rate_factors(schedule_options(args, 6, 1), "StepLR", 1e-3) == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_a_class_that_must_not_be_stepped_too_often_is_shown(options):
    args = options(lr_scheduler_type="OneCycleLR", lr_scheduler_args=["max_lr=0.001", "total_steps=8"])
    assert len(rate_factors(schedule_options(args, 8, 1), "OneCycleLR", 1e-3)) == 8


def test_with_two_processes_the_curve_is_that_of_one(options):
    args = options(lr_scheduler="linear")
    assert rate_factors(schedule_options(args, 10, 2), "", 1e-3) == pytest.approx(rate_factors(schedule_options(args, 10, 1), "", 1e-3))


def test_the_preview_is_a_picture(options, tmp_path):
    path = tmp_path / "new" / "curve.png"
    draw_preview(path, schedule_options(options(lr_scheduler="cosine"), 100, 1), "", 1e-3)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_optimizer_with_rates_of_its_own_has_no_curve(options, tmp_path):
    args = options(lr_scheduler_preview=str(tmp_path / "curve.png"), optimizer_type="AdaFactor")
    with pytest.raises(ValueError, match="Adafactor sets its own rates"):
        preview(args, 10, 1)


def test_a_missing_matplotlib_is_named(options, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        draw_preview(tmp_path / "curve.png", schedule_options(options(), 10, 1), "", 1e-3)


def test_the_rate_shown_is_the_highest_that_anything_is_trained_with():
    rates = {"learning_rate": 1e-3, "unet_lr": 1e-4, "text_encoder_lr": [5e-5]}
    assert full_rate(network_options(**rates)) == 1e-4
    assert full_rate(network_options(**rates, network_train_text_encoder_only=True)) == 5e-5
    assert full_rate(network_options(learning_rate=1e-3, unet_lr=1e-4)) == 1e-3
    assert full_rate(network_options(learning_rate=1e-3, unet_lr=1e-4, network_train_unet_only=True)) == 1e-4


def told(options: Namespace, steps: int, caplog) -> str:
    build_schedule(options, trial_optimizer(options), steps, 1)
    return caplog.text


def test_a_warm_up_that_never_ends_is_told(caplog):
    args = network_options(lr_scheduler="cosine", lr_warmup_steps=100)
    assert "--lr_warmup_steps 100: the run has 10 steps, so the full rate is never reached" in told(args, 10, caplog)
    shown = summary(schedule_options(args, 10, 1), "", 1e-3)
    assert shown.floor_rate <= shown.peak_rate


def test_schedules_that_a_schedule_free_optimizer_ignores_are_told(caplog):
    text = told(network_options(optimizer_type="AdamWScheduleFree", lr_scheduler="cosine", lr_warmup_steps=3), 10, caplog)
    assert "--lr_warmup_steps 3 has no effect with AdamWScheduleFree: give --optimizer_args warmup_steps=N" in text
    assert "--lr_scheduler cosine has no effect" in text


def test_a_floor_without_effect_is_told_once(caplog):
    args = network_options(lr_scheduler="constant_with_warmup", lr_scheduler_min_lr_ratio=0.1, lr_warmup_steps=2)
    told(args, 10, caplog)
    summary(schedule_options(args, 10, 1), "", 1e-3)
    assert caplog.text.count("--lr_scheduler_min_lr_ratio has no effect") == 1
