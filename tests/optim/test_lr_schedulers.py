"""Schedulers beyond the recorded series: floors, processes, refusals, previews, saved state."""

from functools import partial

import pytest
import torch
import transformers

from library.optim.floored import FlooredCosineRestarts
from library.optim.lr_schedulers import NoScheduler, ScheduleOptions, build_lr_scheduler, describe_schedule, schedule_factors
from library.optim.optimizers import build_optimizer


def optimizer(rate=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate)


def factors(name, total=100, **options):
    return schedule_factors(ScheduleOptions(name, total, **options))


def stepped(scheduler, steps):
    series = []
    for _ in range(steps):
        series.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return series


FLOORED = ["cosine", "cosine_with_restarts", "linear", "polynomial"]


@pytest.mark.parametrize("name", FLOORED)
def test_a_floor_lifts_the_curve_between_itself_and_one(name):
    plain, lifted = factors(name, num_cycles=3), factors(name, num_cycles=3, min_lr_ratio=0.2)
    assert lifted == pytest.approx([0.2 + 0.8 * factor for factor in plain])


@pytest.mark.parametrize("name", FLOORED)
def test_the_rate_ends_at_the_floor_and_is_never_below_it(name):
    scheduler = build_lr_scheduler(optimizer(), name=name, total_steps=10, num_cycles=2, min_lr_ratio=0.1)
    series = stepped(scheduler, 14)
    assert series[10] == pytest.approx(0.1, abs=1e-6) and min(series) >= 0.1


@pytest.mark.parametrize("name", FLOORED)
def test_the_warm_up_rises_from_zero_whatever_the_floor(name):
    assert factors(name, warmup_steps=4, min_lr_ratio=0.5)[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("name", FLOORED)
def test_a_floor_of_zero_changes_nothing(name):
    assert factors(name, min_lr_ratio=0.0) == factors(name)


def test_restarts_start_from_the_top_and_fall_to_the_floor():
    series = factors("cosine_with_restarts", total=8, num_cycles=2, min_lr_ratio=0.5)
    assert series == pytest.approx([1, 0.9267767, 0.75, 0.5732233] * 2)


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_floor_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"--lr_scheduler_min_lr_ratio.*from 0 to 1, got {ratio}"):
        factors("cosine", min_lr_ratio=ratio)


def test_a_floor_without_effect_is_pointed_out(caplog):
    build_lr_scheduler(optimizer(), name="constant", total_steps=20, min_lr_ratio=0.1)
    assert "no effect with --lr_scheduler constant" in caplog.text


def test_the_floored_class_equals_the_named_schedule():
    arguments = ["total_steps=20", "warmup_steps=2", "num_cycles=3", "floor=0.1"]
    dotted = "library.optim.floored.FlooredCosineRestarts"
    ours = build_lr_scheduler(optimizer(), name="constant", scheduler_type=dotted, arguments=arguments, total_steps=20)
    named = factors("cosine_with_restarts", total=20, warmup_steps=2, num_cycles=3, min_lr_ratio=0.1)
    assert isinstance(ours, FlooredCosineRestarts) and stepped(ours, 20) == pytest.approx(named)


@pytest.mark.parametrize("wrong", [{"floor": 2}, {"warmup_steps": 10}, {"num_cycles": 0}])
def test_the_floored_class_refuses_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlooredCosineRestarts(optimizer(), total_steps=10, **wrong)


LIBRARY = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "cosine_with_restarts": partial(transformers.get_cosine_with_hard_restarts_schedule_with_warmup, num_cycles=3),
    "polynomial": partial(transformers.get_polynomial_decay_schedule_with_warmup, power=3),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_schedules_are_those_of_transformers(name):
    theirs = LIBRARY[name](optimizer(), num_warmup_steps=3, num_training_steps=31)
    ours = build_lr_scheduler(optimizer(), name=name, warmup_steps=3, total_steps=31, num_cycles=3, power=3)
    assert stepped(ours, 35) == pytest.approx(stepped(theirs, 35), abs=1e-12)


@pytest.mark.parametrize("ramp", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_is_that_of_transformers(ramp):
    arguments = [f"warmup_type='{ramp}'", f"decay_type='{ramp}'"]
    theirs = transformers.get_wsd_schedule(optimizer(), 5, 8, 30, warmup_type=ramp, decay_type=ramp, min_lr_ratio=0.1)
    options = {"warmup_steps": 5, "decay_steps": 8, "total_steps": 30, "min_lr_ratio": 0.1}
    ours = build_lr_scheduler(optimizer(), name="warmup_stable_decay", arguments=arguments, **options)
    assert stepped(ours, 33) == pytest.approx(stepped(theirs, 33))


def test_shares_count_all_processes_but_numbers_do_not():
    share = factors("linear", total=10, warmup_steps=0.2, num_processes=2)
    count = factors("linear", total=10, warmup_steps=4, num_processes=2)
    assert share == count == pytest.approx([0, 0.5] + [(20 - 2 * step) / 16 for step in range(2, 10)])


def test_min_lr_may_be_given_as_a_rate():
    by_rate = schedule_factors(ScheduleOptions("cosine_with_min_lr", 10, arguments=["min_lr=1e-5"]), learning_rate=1e-4)
    assert by_rate == pytest.approx(factors("cosine_with_min_lr", total=10, min_lr_ratio=0.1))


REFUSED = {
    "unknown": ({"name": "cosin"}, "unknown --lr_scheduler 'cosin' .did you mean 'cosine'"),
    "plateau": ({"name": "reduce_lr_on_plateau"}, "use cosine or linear"),
    "min lr warm-up": ({"name": "cosine_warmup_with_min_lr"}, "use cosine_with_min_lr"),
    "constant with warm-up": ({"name": "constant", "warmup_steps": 5}, "--lr_warmup_steps 5: use constant_with_warmup"),
    "class with warm-up": ({"name": "constant", "scheduler_type": "StepLR", "warmup_steps": 0.1}, "StepLR takes no --lr_warmup_steps"),
    "plateau class": ({"name": "constant", "scheduler_type": "ReduceLROnPlateau"}, "ReduceLROnPlateau cannot be used"),
    "no such class": ({"name": "constant", "scheduler_type": "NoLR"}, "has no class NoLR"),
    "no such module": ({"name": "constant", "scheduler_type": "no_such_package.LR"}, "pip install no_such_package"),
    "missing argument": ({"name": "constant", "scheduler_type": "StepLR"}, "StepLR needs step_size"),
    "wrong argument": ({"name": "constant", "scheduler_type": "StepLR", "arguments": ["step=1"]}, "no argument 'step'.*step_size"),
    "argument of no use": ({"name": "linear", "arguments": ["step=1"]}, "--lr_scheduler linear has no argument 'step'"),
    "no rules": ({"name": "piecewise_constant"}, "needs step_rules"),
    "bad rules": ({"name": "piecewise_constant", "arguments": ["step_rules='1:x,2'"]}, "step_rules='1:x,2' cannot be read"),
    "adafactor": ({"name": "adafactor"}, "goes with --optimizer_type AdaFactor"),
    "bad ramp": ({"name": "warmup_stable_decay", "arguments": ["decay_type='flat'"]}, "must be one of linear, cosine, 1-sqrt"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_with_a_reason(options, message):
    with pytest.raises((ValueError, ImportError), match=message):
        build_lr_scheduler(optimizer(), total_steps=10, **options)


def test_schedule_free_optimizers_need_no_schedule():
    built = build_optimizer("SGDScheduleFree", [], [{"params": [torch.nn.Parameter(torch.ones(1))]}], learning_rate=0.5)
    scheduler = build_lr_scheduler(built, name="cosine", total_steps=10)
    scheduler.step()
    assert isinstance(scheduler, NoScheduler) and scheduler.get_last_lr() == [0.5]


def test_a_resumed_schedule_goes_by_the_options_of_the_new_run():
    before = build_lr_scheduler(optimizer(), name="linear", total_steps=10)
    stepped(before, 5)
    after = build_lr_scheduler(optimizer(), name="linear", total_steps=20)
    after.load_state_dict(before.state_dict())
    assert stepped(after, 3)[1:] == pytest.approx([14 / 20, 13 / 20])


def test_the_description_gives_peak_floor_and_mean():
    summary = describe_schedule(ScheduleOptions("linear", 4, min_lr_ratio=0.2), learning_rate=0.1)
    assert (summary.peak_rate, summary.floor_rate) == pytest.approx((0.1, 0.02))
    assert summary.mean_factor == pytest.approx((1 + 0.8 + 0.6 + 0.4) / 4)
    assert str(summary) == "linear: peak 0.1, floor 0.02, mean factor 0.700 (learns as much as a constant 0.07)"
