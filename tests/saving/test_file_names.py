"""Names of saves and what is removed, against the files that recorded runs of sd-scripts left behind."""

import pytest

from library.saving import file_names


def saves_left(steps, every, last):
    """Steps whose saves remain after a run of `steps` steps."""
    left = set()
    for step in range(1, steps + 1):
        if file_names.step_save_due(step, every):
            left.add(step)
            left.discard(file_names.step_to_remove(step, every, last))
    return sorted(left)


def test_names_are_kohyas():
    assert file_names.epoch_name("lora", 2) == "lora-000002"
    assert file_names.step_name("lora", 12) == "lora-step00000012"
    assert file_names.final_name("lora") == "lora"
    assert file_names.state_name(file_names.step_name("lora", 12)) == "lora-step00000012-state"


def test_names_without_an_output_name():
    found = [file_names.epoch_name(None, 1), file_names.step_name(None, 1), file_names.final_name(None)]
    assert found == ["epoch-000001", "at-step00000001", "last"]


@pytest.mark.parametrize("last, left", [(6, [6, 9, 12]), (3, [9, 12]), (0, [12]), (100, [3, 6, 9, 12])])
def test_steps_kept(last, left):
    """14 steps, a save every 3: 6 and 3 are the model and state settings of the recorded run k_save_steps."""
    assert saves_left(14, 3, last) == left


def test_one_epoch_kept_leaves_the_newest():
    """The recorded run k_state: 3 epochs, saved each, the last under the final name."""
    left = set()
    for epoch in (1, 2, 3):
        if file_names.epoch_save_due(epoch, 1, 3):
            left.add(epoch)
            left.discard(file_names.epoch_to_remove(epoch, 1, 1))
    assert left == {2}


def test_keeping_no_epoch_keeps_the_newest():
    assert file_names.epoch_to_remove(4, 2, 0) == 2


def test_every_second_epoch_with_two_kept():
    assert [file_names.epoch_to_remove(epoch, 2, 2) for epoch in (2, 4, 6, 8)] == [None, None, 2, 4]


def test_the_ratio_of_the_recorded_run_k_save_ratio():
    every = file_names.epochs_between_saves(num_epochs=4, save_n_epoch_ratio=2)
    assert [epoch for epoch in range(1, 5) if file_names.epoch_save_due(epoch, every, 4)] == [2]


def test_more_saves_than_epochs_means_every_epoch():
    assert file_names.epochs_between_saves(num_epochs=3, save_n_epoch_ratio=5) == 1


def test_nothing_is_due_without_the_option():
    assert not file_names.epoch_save_due(2, None, 4) and not file_names.step_save_due(2, None)
