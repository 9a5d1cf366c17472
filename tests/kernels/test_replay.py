"""Recordings, here made by a stand-in for CUDA graphs: it runs the work again and writes the results to where they were the first time."""

import logging

import pytest
import torch
from torch import nn

from library.kernels.replay import MOST_RECORDINGS, Leaves, Replays, cuda_recorder
from tests.offline import device_of_tests


def written_again(places, results) -> None:
    """Puts new results where the old ones lie."""
    for place, result in zip(places, results, strict=True):
        if place is not None:
            place.copy_(result.detach())


class Rerun:
    """Records as a CUDA graph does: Python runs once, and all later results land in the memory of the first."""

    def __init__(self):
        self.recorded = 0
        self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        place = [tensor if tensor is None else tensor.detach() for tensor in work()]

        def replay():
            self.replayed += 1
            with torch.enable_grad():  # a CUDA graph does not care that Python now is inside an autograd function
                result = work()
            written_again(place, result)

        return place, replay


class Layer:
    def __init__(self):
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.unused = nn.Parameter(torch.ones(1))
        self.frozen = torch.ones(1)
        self.asked = 0

    @property
    def leaves(self):
        return [self.weight, self.unused, self.frozen]

    def __call__(self, inputs):
        self.asked += 1
        return {"y": inputs["x"] @ self.weight * inputs["scale"]}


def inputs(rows: int = 3, start: float = 0.0, needs_gradient: bool = False):
    x = torch.arange(2.0 * rows).view(rows, 2) + start
    return {"x": x.requires_grad_(needs_gradient), "scale": torch.tensor(2.0)}


def test_the_first_call_runs_the_second_records_and_later_ones_replay():
    layer, record = Layer(), Rerun()
    replays = Replays(Leaves(layer.leaves), record)
    for start in (0.0, 1.0, 2.0):
        given = inputs(start=start)
        answer = replays(layer, given)["y"]
        assert torch.equal(answer, given["x"] @ layer.weight * 2)
        answer.square().sum().backward()
        expected = given["x"].T @ (2 * answer.detach() * 2)
        assert torch.equal(layer.weight.grad, expected)
        assert layer.unused.grad is None
        layer.weight.grad = None
    assert record.recorded == 2 and record.replayed == 4  # forward and backward; the stand-in reruns what was recorded


def test_a_replay_reads_the_weights_as_they_are_now():
    layer = Layer()
    replays = Replays(Leaves(layer.leaves), Rerun())
    for _ in range(3):
        replays(layer, inputs())
    with torch.no_grad():
        layer.weight.mul_(-1)
    assert torch.equal(replays(layer, inputs())["y"], inputs()["x"] @ layer.weight * 2)


def test_gradients_reach_inputs_that_want_them():
    layer = Layer()
    replays = Replays(Leaves(layer.leaves), Rerun())
    for start in (0.0, 1.0, 2.0):
        given = inputs(start=start, needs_gradient=True)
        replays(layer, given)["y"].sum().backward()
        assert torch.equal(given["x"].grad, (torch.ones(3, 2) @ layer.weight.detach().T) * 2)
        assert given["scale"].grad is None


def test_several_answers_come_by_name_and_those_without_gradients_have_none():
    layer, record = Layer(), Rerun()
    replays = Replays(Leaves(layer.leaves), record)
    for start in (0.0, 1.0, 2.0, 3.0):
        given = inputs(start=start)
        answers = replays(lambda inputs: layer(inputs) | {"double": 2 * inputs["x"], "sum": layer(inputs)["y"].sum()}, given)
        assert list(answers) == ["y", "double", "sum"] and not answers["double"].requires_grad
        assert torch.equal(answers["double"], 2 * given["x"])
        layer.weight.grad = None
        (answers["y"].sum() + answers["sum"]).backward()
        assert torch.equal(layer.weight.grad, 2 * given["x"].T @ torch.full((3, 2), 2.0))
    assert record.recorded == 2


def test_what_trains_nothing_has_no_backward_pass():
    layer, record = Layer(), Rerun()
    replays = Replays(Leaves([]), record)
    for start in (0.0, 1.0, 2.0, 3.0):
        given = inputs(start=start)
        answer = replays(lambda inputs: {"y": inputs["x"] * inputs["scale"]}, given)["y"]
        assert torch.equal(answer, 2 * given["x"]) and not answer.requires_grad
    assert record.recorded == 1 and layer.asked == 0


def test_each_set_of_shapes_has_a_recording_and_their_number_is_limited():
    layer, record = Layer(), Rerun()
    replays = Replays(Leaves(layer.leaves), record)
    for _ in range(2):
        for rows in range(1, MOST_RECORDINGS + 3):
            assert torch.equal(replays(layer, inputs(rows))["y"], inputs(rows)["x"] @ layer.weight * 2)
    assert record.recorded == 2 * MOST_RECORDINGS


def test_answers_without_gradients_are_computed_as_usual():
    layer, record = Layer(), Rerun()
    replays = Replays(Leaves(layer.leaves), record)
    with torch.no_grad():
        for _ in range(3):
            replays(layer, inputs())
    assert record.recorded == 0 and layer.asked == 3


def test_gradients_that_are_added_up_do_not_share_the_recordings_memory():
    layer = Layer()
    replays = Replays(Leaves(layer.leaves, keeps_gradients=True), Rerun())
    expected = torch.zeros(2, 2)
    for start in (0.0, 1.0, 2.0, 3.0):
        given = inputs(start=start)
        replays(layer, given)["y"].sum().backward()
        expected += given["x"].T @ torch.full((3, 2), 2.0)
        assert torch.equal(layer.weight.grad, expected)


def test_what_cannot_be_recorded_runs_as_usual_and_is_told_once(caplog):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand a long tail")

    layer = Layer()
    replays = Replays(Leaves(layer.leaves), refuse, part="the U-Net")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert torch.equal(replays(layer, inputs())["y"], inputs()["x"] @ layer.weight * 2)
    assert [record.message for record in caplog.records] == [
        "--cuda_graph auto: the U-Net runs as usual, a little slower, as it could not be recorded"
        " (operation not permitted when stream is capturing)"
    ]


def test_all_recordings_write_a_gradient_to_one_place_that_lies_like_its_leaf():
    layer = Layer()
    layer.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t())
    replays = Replays(Leaves(layer.leaves), Rerun())
    places = []
    for rows in (3, 4, 3, 4, 3):  # the first of each is computed as usual
        layer.weight.grad = None
        replays(layer, inputs(rows))["y"].sum().backward()
        assert torch.equal(layer.weight.grad, 2 * inputs(rows)["x"].T @ torch.ones(rows, 2))
        assert layer.weight.grad.stride() == layer.weight.stride()
        places.append(layer.weight.grad)
    assert places[2] is places[3] is places[4]


def test_recordings_give_way_where_a_new_shape_finds_no_memory(caplog):
    layer = Layer()
    replays = Replays(Leaves(layer.leaves), Rerun(), part="the U-Net")
    for _ in range(2):
        replays(layer, inputs())

    def too_large(given):
        if replays.recordings:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return layer(given)

    assert torch.equal(replays(too_large, inputs(5))["y"], inputs(5)["x"] @ layer.weight * 2)
    assert caplog.messages == [
        "--cuda_graph auto: the U-Net runs as usual, a little slower, as it could not be recorded"
        " (the GPU's memory does not hold the recordings of several bucket shapes)"
    ]
    with pytest.raises(torch.OutOfMemoryError):
        Replays(Leaves(layer.leaves), Rerun())(lambda given: (_ for _ in ()).throw(torch.OutOfMemoryError()), inputs())


@pytest.mark.gpu
@pytest.mark.skipif(device_of_tests() == "pretend", reason="a pretended GPU records no graphs")
def test_after_a_refused_recording_all_goes_on(gpu, caplog):
    weight = nn.Parameter(torch.ones(2, 2, device=gpu))
    replays = Replays(Leaves([weight]), cuda_recorder(), part="the U-Net")
    stream = torch.cuda.current_stream()

    def waits(given):
        return {"y": given["x"] @ weight * float(given["x"].sum().item())}

    given = {"x": torch.ones(3, 2, device=gpu)}
    for _ in range(4):
        weight.grad = None
        replays(waits, given)["y"].sum().backward()
        assert torch.randn(4, device=gpu).isfinite().all() and torch.cuda.current_stream() == stream
        torch.testing.assert_close(weight.grad, torch.full((2, 2), 18.0, device=gpu))
    assert len(caplog.messages) == 1 and "could not be recorded" in caplog.messages[0]


@pytest.mark.gpu
@pytest.mark.skipif(device_of_tests() == "pretend", reason="a pretended GPU records no graphs")
def test_cuda_graphs_give_what_running_gives(gpu):
    layer = Layer()
    layer.weight = nn.Parameter(layer.weight.detach().to(gpu))
    replays = Replays(Leaves([layer.weight]), cuda_recorder())
    for start in (0.0, 1.0, 2.0, 3.0):
        given = {name: tensor.to(gpu) for name, tensor in inputs(start=start).items()}
        answer = replays(layer, given)["y"]
        torch.testing.assert_close(answer, given["x"] @ layer.weight * 2)
        answer.sum().backward()
        torch.testing.assert_close(layer.weight.grad, given["x"].T @ torch.full((3, 2), 2.0, device=gpu))
        layer.weight.grad = None
