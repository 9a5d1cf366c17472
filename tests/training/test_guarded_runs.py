"""Whole runs on a tiny model into which a NaN is put, at each place where one can arise: no run is ruined, and each says where it was."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from library.saving.weights import load_tensors
from library.training import network_recipe
from library.training.saving_points import NotSaved
from tests.tiny_runs import picture_folder, small_run

pytestmark = pytest.mark.usefixtures("models_loaded_once")
CACHED = ("--cache_latents",)


@pytest.fixture
def data(tmp_path):
    return picture_folder(tmp_path / "data", 3, repeats=1)


def spoil_vae(run, monkeypatch):
    """One image in half precision: the VAE gives NaN for it."""
    encode, calls = run.family.encode_images, []

    def spoiled(vae, pixels, seeds):
        calls.append(pixels)
        latents = encode(vae, pixels, seeds)
        return latents * math.nan if len(calls) == 2 else latents

    monkeypatch.setattr(type(run.family), "encode_images", lambda self, vae, pixels, seeds=None: spoiled(vae, pixels, seeds))


def spoil_text(run, monkeypatch):
    encode, calls = run.family.encode_text, []

    def spoiled(*args, **options):
        calls.append(args)
        states = encode(*args, **options)
        return {name: state * math.nan for name, state in states.items()} if len(calls) == 2 else states

    monkeypatch.setattr(type(run.family), "encode_text", lambda self, *args, **options: spoiled(*args, **options))


def spoil_loss(value: float):
    def spoil(run, monkeypatch):
        real, calls = network_recipe.training_loss, []

        def spoiled(*parts):
            loss, step = real(*parts)
            calls.append(loss)
            return (loss * value, step) if len(calls) == 2 else (loss, step)

        monkeypatch.setattr(network_recipe, "training_loss", spoiled)

    return spoil


def spoil_gradient(value: float):
    def spoil(run, monkeypatch):
        weight = next(parameter for parameter in run.network.parameters() if parameter.requires_grad)
        calls = []

        def spoiled(gradient):
            calls.append(gradient)
            return torch.full_like(gradient, value) if len(calls) == 2 else gradient

        weight.register_hook(spoiled)

    return spoil


def spoil_latent(run, monkeypatch):
    batches, calls = run.loader.epoch, []

    def spoiled(*args, **options):
        for batch in batches(*args, **options):
            calls.append(batch)
            if len(calls) == 2:
                batch.latents[0, 0, 0, 0] = math.nan
            yield batch

    monkeypatch.setattr(run.loader, "epoch", spoiled)


def after_step_2(spoil: Callable):
    def watch(run, monkeypatch):
        def spoiled(update):
            if update.global_step == 2:
                with torch.no_grad():
                    spoil(run)

        run.update_watchers.append(spoiled)

    return watch


def spoil_optimizer_state(run):
    state = next(iter(run.optimizer.state.values()))
    state["exp_avg"].fill_(math.nan)


@dataclass(frozen=True)
class Fault:
    """where: NaN or infinite values arise. told: what is read, all of it. skipped: updates left out."""

    where: str
    spoil: Callable
    told: tuple[str, ...]
    options: tuple[str, ...] = CACHED
    skipped: int = 1


FAULTS = [
    Fault("an image in the VAE", spoil_vae, ("replaced by zeros", ".png", "--no_half_vae"), options=(), skipped=0),
    Fault("a latent", spoil_latent, ("step 2: update left out", "in latents, loss, gradient", ".png: picture ")),
    Fault("the text encoder", spoil_text, ("step 2: update left out", "in loss, gradient", ".png: picture ")),
    Fault("the loss, NaN", spoil_loss(math.nan), ("step 2: update left out", ".png: picture ")),
    Fault("the loss, infinite", spoil_loss(math.inf), ("step 2: update left out", ".png: picture ")),
    Fault("a gradient, NaN", spoil_gradient(math.nan), ("step 2: update left out", "values in gradient", "1 of ")),
    Fault("a gradient, infinite", spoil_gradient(math.inf), ("step 2: update left out", "values in gradient", "1 of ")),
    Fault(
        "a weight",
        after_step_2(lambda run: next(run.network.parameters()).fill_(math.nan)),
        ("the weights themselves", "back to the weights"),
        skipped=2,  # that of step 3 is read one update later
    ),
    Fault("the optimizer's memory", after_step_2(spoil_optimizer_state), ("the weights themselves", "back to the weights")),
]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.where) for fault in FAULTS])
def test_no_value_that_is_not_finite_ruins_a_run(fault, tiny_models, data, tmp_path, monkeypatch, capsys):
    run = small_run(tiny_models("sd1"), data, tmp_path, *fault.options)
    fault.spoil(run, monkeypatch)
    network_recipe.train(run)
    told = capsys.readouterr().err
    assert not [words for words in fault.told if words not in told], told
    assert run.optimization.guard.skipped == fault.skipped
    assert all(torch.isfinite(tensor).all() for tensor in load_tensors(tmp_path / "lora.safetensors").values())


def test_an_image_whose_latents_are_nan_stops_the_caching_and_leaves_no_file(tiny_models, data, tmp_path, monkeypatch):
    from library.models.sd import SD

    encode = SD.encode_images
    monkeypatch.setattr(SD, "encode_images", lambda self, *parts: encode(self, *parts) * math.nan)
    with pytest.raises(ValueError, match=r"\.png.*--no_half_vae"):
        small_run(tiny_models("sd1"), data, tmp_path, "--cache_latents_to_disk")
    assert not list(data.rglob("*.npz"))


def test_a_cache_file_with_nan_is_made_again(tiny_models, data, tmp_path):
    small_run(tiny_models("sd1"), data, tmp_path, "--cache_latents_to_disk")
    path = next(data.rglob("p0_*.npz"))
    arrays = dict(np.load(path))
    del arrays["source"]
    arrays["latents"] = np.full_like(arrays["latents"], np.nan)
    np.savez(path, **arrays)
    small_run(tiny_models("sd1"), data, tmp_path, "--cache_latents_to_disk")
    assert np.isfinite(np.load(path)["latents"]).all()


def test_a_file_with_nan_is_never_written(tiny_models, data, tmp_path):
    run = small_run(tiny_models("sd1"), data, tmp_path, "--nan_guard", "off")
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.nan)
    with pytest.raises(NotSaved, match="NaN"):
        network_recipe.train(run)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("optimizer", [["--optimizer_args", "foreach=True"], []], ids=["read by the host", "skipped on the device"])
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
        run = small_run(tiny_models("sd1"), data, tmp_path / out, *options, *optimizer, *more)
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
