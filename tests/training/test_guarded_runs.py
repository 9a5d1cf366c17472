"""Whole runs on a tiny model into which a NaN is put, at each place where one can arise."""

import math

import pytest
import torch

from library.saving.weights import load_tensors
from library.training import network_recipe
from library.training.guard import weights_are_finite
from library.training.saving_points import NotSaved
from tests.training.small_run import prepared, write_images


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "data")


def spoil_loss(run, monkeypatch):
    real, calls = network_recipe.training_loss, []

    def spoiled(*parts):
        loss, step = real(*parts)
        calls.append(loss)
        return (loss * math.nan, step) if len(calls) == 2 else (loss, step)

    monkeypatch.setattr(network_recipe, "training_loss", spoiled)


def spoil_gradient(run, monkeypatch):
    weight = next(parameter for parameter in run.network.parameters() if parameter.requires_grad)
    calls = []

    def spoiled(gradient):
        calls.append(gradient)
        return torch.full_like(gradient, math.inf) if len(calls) == 2 else gradient

    weight.register_hook(spoiled)


def spoil_latent(run, monkeypatch):
    batches, calls = run.loader.epoch, []

    def spoiled(*args, **options):
        for batch in batches(*args, **options):
            calls.append(batch)
            if len(calls) == 2:
                batch.latents[0, 0, 0, 0] = math.nan
            yield batch

    monkeypatch.setattr(run.loader, "epoch", spoiled)


@pytest.mark.parametrize("spoil", [spoil_loss, spoil_gradient, spoil_latent])
def test_one_bad_step_leaves_a_finite_network_and_a_message(spoil, tiny_models, data, tmp_path, monkeypatch, capsys):
    run = prepared(tiny_models("sd1"), data, tmp_path, "--cache_latents")
    spoil(run, monkeypatch)
    network_recipe.train(run)
    assert all(torch.isfinite(tensor).all() for tensor in load_tensors(tmp_path / "lora.safetensors").values())
    told = capsys.readouterr().err
    assert "step 2: update left out" in told and ".png: thing, number" in told
    assert run.optimization.guard.skipped == 1


def test_weights_with_nan_are_taken_back_and_training_goes_on(tiny_models, data, tmp_path, capsys):
    run = prepared(tiny_models("sd1"), data, tmp_path)

    def spoil(update):
        if update.global_step == 2:
            with torch.no_grad():
                next(run.network.parameters()).fill_(math.nan)

    run.update_watchers.append(spoil)
    network_recipe.train(run)
    assert weights_are_finite(run.network)
    assert "the weights themselves" in capsys.readouterr().err


def test_a_file_with_nan_is_never_written(tiny_models, data, tmp_path):
    run = prepared(tiny_models("sd1"), data, tmp_path, "--nan_guard", "off")
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.nan)
    with pytest.raises(NotSaved, match="NaN"):
        network_recipe.train(run)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("optimizer", [[], ["--optimizer_args", "fused=True"]], ids=["read by the host", "skipped on the device"])
def test_a_run_that_goes_on_in_the_middle_of_a_bad_stretch_rolls_back_like_one_that_was_not_interrupted(
    optimizer, tiny_models, data, tmp_path, monkeypatch
):
    options = ["--nan_guard", "rollback", "--nan_guard_patience", "2", "--max_train_steps", "6"]
    options += ["--save_every_n_steps", "3", "--save_state"]
    real = network_recipe.training_loss

    def spoiled(*parts):  # steps 3 and 4 are bad, the state lies between them
        loss, step = real(*parts)
        return (loss * math.nan, step) if spoiled.step in (3, 4) else (loss, step)

    def trained(out, *more):
        run = prepared(tiny_models("sd1"), data, tmp_path / out, *options, *optimizer, *more)
        spoiled.step = run.start.global_step + 1
        run.update_watchers.append(lambda update: setattr(spoiled, "step", update.global_step + 1))
        network_recipe.train(run)
        return run

    monkeypatch.setattr(network_recipe, "training_loss", spoiled)
    whole = trained("whole")
    resumed = trained("resumed", "--resume", str(tmp_path / "whole" / "lora-step00000003-state"))
    assert whole.optimization.guard.state() == resumed.optimization.guard.state() == {"in_a_row": 0, "skipped": 2, "rollbacks": 1}
    assert whole.optimizer.param_groups[0]["initial_lr"] == resumed.optimizer.param_groups[0]["initial_lr"] == 0.5e-2
    ours, theirs = (load_tensors(tmp_path / name / "lora.safetensors") for name in ("resumed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
