import pytest

from library.training.plan import plan_training

DEFAULTS = {
    "batches_per_epoch": 13,
    "processes": 1,
    "accumulation": 1,
    "max_train_steps": 14,
    "max_train_epochs": None,
    "save_every_n_epochs": None,
    "save_n_epoch_ratio": None,
}


def planned(**changes):
    return plan_training(**DEFAULTS | changes)


def test_epochs_are_rounded_up_to_reach_the_steps():
    assert planned().num_epochs == 2


def test_a_number_of_epochs_beats_a_number_of_steps():
    plan = planned(max_train_epochs=3)
    assert (plan.total_steps, plan.num_epochs) == (39, 3)


def test_a_short_rest_of_an_epoch_is_an_update_of_its_own():
    assert planned(accumulation=3).updates_per_epoch == 5


def test_processes_share_the_batches():
    plan = planned(processes=2, max_train_epochs=2)
    assert (plan.updates_per_epoch, plan.total_steps) == (7, 14)


@pytest.mark.parametrize("ratio, every", [(2, 5), (10, 1), (100, 1)])
def test_a_ratio_of_saves_sets_the_interval(ratio, every):
    assert planned(max_train_epochs=10, save_n_epoch_ratio=ratio, save_every_n_epochs=7).save_every_n_epochs == every
