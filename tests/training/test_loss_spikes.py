import json
import random

from library.training.loss_spikes import LossSpikes


def test_a_far_higher_loss_is_a_spike_and_does_not_hide_the_next():
    spikes, draw = LossSpikes(), random.Random(0)
    assert all(spikes.height(draw.uniform(0.05, 0.15)) is None for _ in range(60))
    assert spikes.height(5.0) > 12
    assert spikes.height(5.0) > 12


def test_the_ordinary_spread_of_diffusion_losses_is_none():
    spikes, draw = LossSpikes(), random.Random(0)
    assert not [loss for loss in (draw.expovariate(10) for _ in range(1000)) if spikes.height(loss)]


def test_nothing_is_a_spike_at_the_start_or_where_all_losses_are_equal():
    spikes = LossSpikes(warm_up=5)
    assert spikes.height(100.0) is None
    assert all(spikes.height(0.1) is None for _ in range(20))


def test_what_it_has_seen_survives_a_json_file():
    spikes, other = LossSpikes(), LossSpikes()
    for number in range(60):
        spikes.height(0.1 + 0.001 * number)
    other.restore(json.loads(json.dumps(spikes.state())))
    assert other.height(5.0) == spikes.height(5.0) > 12
