import torch

from library.training.settled_rate import SettledRate


def told(pairs, patience=3):
    settled = SettledRate(patience)
    answers = [bool(settled.notice(d, rate)) for d, rate in [*pairs, pairs[-1]]]
    return answers[1:]  # each is told when the next d comes


def test_a_restart_after_d_has_settled_is_told_once():
    assert told([(1.0, 1.0), (1.0, 0.5), (1.0, 0.2), (1.0, 0.1), (1.0, 1.0), (1.0, 1.0)]) == [False, False, False, False, True, False]


def test_a_falling_schedule_is_no_recovery():
    assert not any(told([(1.0, 1.0 / step) for step in range(1, 20)]))


def test_while_d_grows_nothing_is_said():
    assert not any(told([(1.1**step, step % 3 + 1) for step in range(20)]))


def test_the_notice_names_what_the_steps_learn_at():
    settled = SettledRate(1)
    settled.notice(torch.tensor(2e-4), 0.1)
    settled.notice(torch.tensor(2e-4), 1.0)
    assert settled.state()["told"]
    assert "rate x d = 0.0002" in settled.notice(2e-4, 1.0)
