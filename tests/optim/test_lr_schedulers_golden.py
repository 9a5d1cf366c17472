"""Learning rates against the recorded series: the rate in force before each of the first steps of a run."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from library.optim.lr_schedulers import build_lr_scheduler
from library.optim.optimizers import build_optimizer

SERIES = json.loads((Path(__file__).parents[1] / "golden" / "lr_schedulers.json").read_text(encoding="utf-8"))["series"]


def steps(text):
    value = float(text)
    return value if value < 1 else int(text)


def options(entry):
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr_scheduler", dest="name")
    parser.add_argument("--lr_scheduler_type", dest="scheduler_type")
    parser.add_argument("--lr_scheduler_args", dest="arguments", nargs="*")
    parser.add_argument("--lr_warmup_steps", dest="warmup_steps", type=steps, default=0)
    parser.add_argument("--lr_decay_steps", dest="decay_steps", type=steps, default=0)
    parser.add_argument("--lr_scheduler_num_cycles", dest="num_cycles", type=int, default=1)
    parser.add_argument("--lr_scheduler_power", dest="power", type=float, default=1)
    parser.add_argument("--lr_scheduler_timescale", dest="timescale", type=int)
    parser.add_argument("--lr_scheduler_min_lr_ratio", dest="min_lr_ratio", type=float)
    return vars(parser.parse_args(entry["args"])) | {"total_steps": entry["max_train_steps"]}


def rates(built, scheduler, length):
    for group in built.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    series = []
    for _ in range(length):
        series.append(scheduler.get_last_lr())
        built.optimizer.step()
        scheduler.step()
    return series


def built_for(entry):
    recorded = entry.get("lr", [0.0])[0]
    count = len(recorded) if isinstance(recorded, list) else 1
    rate = entry.get("learning_rate", 5e-8 if entry["name"] == "poly_lr5e-8" else 1.0)
    parameters = [torch.nn.Parameter(torch.full((2, 2), 1.0)) for _ in range(count)]
    if entry["name"] == "linear_two_groups":
        return build_optimizer("SGD", [], [{"params": [p], "lr": rate * (n + 1)} for n, p in enumerate(parameters)], learning_rate=rate)
    kind = "AdaFactor" if entry["name"].startswith("adafactor") else "SGD"
    return build_optimizer(kind, [], [{"params": parameters}], learning_rate=rate)


@pytest.mark.parametrize("entry", [entry for entry in SERIES if "lr" in entry], ids=lambda entry: entry["name"])
def test_the_rates_are_the_recorded_ones(entry):
    built = built_for(entry)
    series = rates(built, build_lr_scheduler(built, **options(entry)), len(entry["lr"]))
    recorded = [rate if isinstance(rate, list) else [rate] for rate in entry["lr"]]
    assert series == [pytest.approx(rate, rel=1e-6, abs=1e-12) for rate in recorded]


@pytest.mark.parametrize("entry", [entry for entry in SERIES if "error" in entry], ids=lambda entry: entry["name"])
def test_what_was_refused_is_refused_with_a_reason(entry):
    with pytest.raises(ValueError, match=r"--lr_"):
        build_lr_scheduler(built_for(entry), **options(entry))
