"""A whole run with --gradient_checkpointing selective."""

import torch

from library.kernels.recompute import Recipe
from library.training.network_recipe import train
from tests.tiny_runs import picture_folder, small_run


def test_selective_checkpointing_trains_the_same_weights(looked_at, tiny_models, tmp_path, monkeypatch):
    computed_again, output = [], Recipe.output
    monkeypatch.setattr(Recipe, "output", lambda recipe: computed_again.append(recipe) or output(recipe))
    as_looked_at = ("--validation_split", "0.4", "--network_dropout", "0.3", "--validate_every_n_epochs", "99")
    options = (*as_looked_at, "--gradient_checkpointing", "selective")
    run = small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", 5, repeats=1), tmp_path / "out", *options)
    train(run)
    assert computed_again
    expected = looked_at(False).weights
    for name, weight in run.network.state_dict().items():
        assert torch.equal(weight, expected[name]), name
