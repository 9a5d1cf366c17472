"""Where a run begins: by our state, by the options, and as sd-scripts counts."""

from library.training.plan import plan_training
from library.training.positions import Position, after_steps, next_epoch_if_done, reference_start

PLAN = plan_training(
    batches_per_epoch=5, processes=1, accumulation=2, max_train_steps=9, max_train_epochs=None, save_every_n_epochs=None,
    save_n_epoch_ratio=None,
)  # fmt: skip; 3 updates to an epoch, the last of one batch


def test_steps_done_point_to_the_batch_that_follows():
    assert [after_steps(steps, PLAN, 2) for steps in (0, 2, 3, 4)] == [
        Position(1, 0, 0), Position(1, 4, 2), Position(2, 0, 3), Position(2, 2, 4),
    ]  # fmt: skip


def test_the_end_of_an_epoch_is_the_beginning_of_the_next():
    assert next_epoch_if_done(Position(1, 5, 3), batches=5) == Position(2, 0, 3)
    assert next_epoch_if_done(Position(1, 4, 2), batches=5) == Position(1, 4, 2)


def test_the_reference_does_a_part_of_an_epoch_again_and_counts_from_zero():
    assert reference_start(4, PLAN, batches=5, accumulation=2, skip=False) == Position(2, 0, 0)


def test_the_reference_skips_batches_and_counts_the_rest_of_the_epoch():
    single = plan_training(
        batches_per_epoch=5, processes=1, accumulation=1, max_train_steps=9, max_train_epochs=None, save_every_n_epochs=None,
        save_n_epoch_ratio=None,
    )  # fmt: skip
    assert reference_start(7, single, batches=5, accumulation=1, skip=True) == Position(2, 2, 2)
