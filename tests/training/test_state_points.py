"""When training states are saved, which older ones go, and saving one on request."""

from pathlib import Path

import pytest

from library.training.loss_average import LossAverage
from library.training.positions import Position
from library.training.saving_points import NotSaved, SaveSettings
from library.training.state_points import StatePoints, StateSettings


@pytest.fixture
def points(tmp_path):
    """Call it with numbers: StatePoints whose states are empty folders."""

    def make(states: StateSettings, every_steps=None, every_epochs=None) -> StatePoints:
        saves = SaveSettings(tmp_path, "lora", ".safetensors", save_every_n_steps=every_steps, save_every_n_epochs=every_epochs)
        return StatePoints(saves, states, lambda folder, position, losses: folder.mkdir(exist_ok=True), num_epochs=9)

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_saved_unless_asked_for(points, tmp_path):
    quiet = points(StateSettings(), every_steps=1, every_epochs=1)
    quiet.after_step(Position(1, 1, 1), LossAverage)
    quiet.after_epoch(Position(1, 1, 1), LossAverage)
    quiet.at_end(Position(1, 1, 1), LossAverage)
    assert not names(tmp_path)


def test_older_step_states_go(points, tmp_path):
    states = points(StateSettings(with_saves=True, last_n_steps=2), every_steps=2)
    for step in range(1, 9):
        states.after_step(Position(1, step, step), LossAverage)
    assert names(tmp_path) == ["lora-step00000006-state", "lora-step00000008-state"]


def test_older_epoch_states_go(points, tmp_path):
    states = points(StateSettings(with_saves=True, last_n_epochs=1), every_epochs=1)
    for epoch in (1, 2, 3):
        states.after_epoch(Position(epoch, 4, 4 * epoch), LossAverage)
    assert names(tmp_path) == ["lora-000003-state"]


def test_the_end_alone(points, tmp_path):
    states = points(StateSettings(at_end=True), every_steps=1, every_epochs=1)
    states.after_step(Position(1, 1, 1), LossAverage)
    states.at_end(Position(1, 1, 1), LossAverage)
    assert names(tmp_path) == ["lora-state"]


def test_one_is_saved_on_request_after_the_coming_update(points, tmp_path):
    states = points(StateSettings())
    states.ask()
    for step in (1, 2):
        states.after_step(Position(1, step, step), LossAverage)
    assert names(tmp_path) == ["lora-step00000001-state"]
    assert states.newest == tmp_path / "lora-step00000001-state"


def test_a_save_that_fails_is_told_and_older_states_stay(tmp_path, caplog):
    def write(folder, position, losses):
        if position.global_step == 2:
            raise NotSaved("the disk is full")
        folder.mkdir()

    saves = SaveSettings(tmp_path, "lora", ".safetensors", save_every_n_steps=1)
    states = StatePoints(saves, StateSettings(with_saves=True, last_n_steps=0), write, num_epochs=1)
    for step in (1, 2):
        states.after_step(Position(1, step, step), LossAverage)
    assert names(tmp_path) == ["lora-step00000001-state"]
    assert "the disk is full. Earlier states stay" in caplog.text
