import math

from library.training.loss_average import LossAverage


def test_the_first_epoch_averages_all_its_losses():
    average = LossAverage()
    for place, loss in enumerate([1.0, 2.0, 6.0]):
        average.add(epoch=0, place=place, loss=loss)
    assert average.average == 3.0


def test_a_later_epoch_replaces_the_loss_of_the_same_place():
    average = LossAverage()
    for place, loss in enumerate([1.0, 3.0]):
        average.add(epoch=0, place=place, loss=loss)
    average.add(epoch=1, place=0, loss=5.0)
    assert average.average == 4.0


def test_one_nan_does_not_spoil_the_average_for_ever():
    average = LossAverage()
    average.add(epoch=0, place=0, loss=2.0)
    average.add(epoch=0, place=1, loss=math.nan)
    assert average.average == 2.0


def test_the_average_of_nothing_is_zero():
    assert LossAverage().average == 0.0
