"""The kernels of our optimizers run on a GPU if there is one, else in Triton's interpreter, beside the plain torch form."""

import logging
import math

import pytest
import torch

from library.training import optimizer_kernels
from library.training.optimizer_kernels import use_kernels
from tests.optim.one_pass_cases import (
    ONE_OF_EACH,
    WITH_KERNELS,
    WITHOUT_MOMENTUM,
    assert_a_step_left_out_has_not_been,
    assert_near,
    assert_they_end_where_plain_torch_ends,
    trained,
)
from tests.optim.test_multi_tensor import CASES, network
from tests.optim.with_triton import BY_KERNELS, DEVICE

pytestmark = BY_KERNELS


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_steps_end_where_those_of_plain_torch_end(name, kernels, launches):
    assert_they_end_where_plain_torch_ends(WITH_KERNELS[name], kernels)
    assert bool(launches) == (name != WITHOUT_MOMENTUM)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_large_tensors_are_worked_on_piece_by_piece(name, kernels, launches, monkeypatch):
    monkeypatch.setattr(kernels, "block", 64)
    case = WITH_KERNELS[name]
    assert_near(trained(*case, kernels, steps=2)[0], trained(*case, steps=2)[0], 1e-6)
    assert launches


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_half_precision_weights_move_as_in_fp32(name, dtype, kernels, launches):
    ours, options = WITH_KERNELS[name]
    options = options | {"betas": (0.9, 0.5)} | ({"d0": 0.1} if "d0" in options else {"lr": 0.1})
    moved = []
    for kind, with_kernels in ((torch.float32, None), (dtype, kernels)):
        ends = trained(ours, options, with_kernels, steps=3, dtype=kind)[0]
        moved.append(torch.cat([(end.float().cpu() - start).flatten() for end, start in zip(ends, network(), strict=True)]))
    assert (moved[1] - moved[0]).norm() <= 0.1 * moved[0].norm()
    assert launches


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_that_is_left_out_has_not_been(name, bad, kernels, launches):
    assert_a_step_left_out_has_not_been(WITH_KERNELS[name], kernels, bad)
    assert launches


def test_states_that_lie_otherwise_in_memory_take_the_plain_form(kernels, launches):
    _, optimizer = trained(*WITH_KERNELS["dadapt lion"], steps=1)
    for state in optimizer.state.values():
        state["s"] = state["s"].transpose(0, -1).contiguous().transpose(0, -1)
    optimizer.kernels = kernels
    optimizer.step()
    assert not launches


@pytest.mark.parametrize("name", [*ONE_OF_EACH, WITHOUT_MOMENTUM])
def test_an_optimizer_gets_its_kernels_once_they_have_taken_its_own_steps(name, kernels, launches, on_this_device):
    ours, options = WITH_KERNELS[name]
    parameters = [torch.nn.Parameter(torch.ones(2, 2, device=DEVICE))]
    optimizer = ours(parameters, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)  # begins at 0, and wraps `optimizer.step`
    before = optimizer.state_dict()
    use_kernels(optimizer, torch.device(DEVICE))
    assert optimizer.kernels is kernels and bool(launches) == (name != WITHOUT_MOMENTUM)
    assert optimizer.state_dict() == before and parameters[0].tolist() == [[1.0, 1.0]] * 2 and schedule.last_epoch == 0


WRONG = {"lion": "lion", "dadapt_lion": "dadapt lion", "dadapt_adam_move": "dadapt adam", "prodigy_move": "prodigy"}


@pytest.mark.parametrize("kernel", WRONG)
def test_kernels_whose_numbers_are_wrong_are_not_used(kernel, kernels, on_this_device, monkeypatch, caplog):
    ours, options = WITH_KERNELS[WRONG[kernel]]
    optimizer = ours([torch.nn.Parameter(torch.ones(2, device=DEVICE))], **options)
    right = getattr(kernels, kernel)
    monkeypatch.setattr(kernels, kernel, lambda unless, lists, rate, *rest: right(unless, lists, rate * 1.05, rest[0], 0.1))
    with caplog.at_level(logging.WARNING):
        use_kernels(optimizer, torch.device(DEVICE))
    assert optimizer.kernels is None
    assert caplog.messages[-1:] == [
        f"steps of {ours.__name__} are computed without kernels, a little slower: Triton does not work here "
        "(its numbers in torch.float32 are not those of plain torch)"
    ]


@pytest.mark.parametrize("kernel", ["dadapt_adam_averages", "dadapt_preprint_averages", "prodigy_averages"])
def test_sums_that_are_wrong_are_found(kernel, kernels, on_this_device, monkeypatch):
    ours = WITH_KERNELS[kernel.removesuffix("_averages").replace("_", " ")][0]
    optimizer = ours([torch.nn.Parameter(torch.ones(2, device=DEVICE))])
    right = getattr(kernels, kernel)

    def wrong(*arguments):
        sums = right(*arguments)
        return sums * torch.tensor([1.2, 1.1, 1.0], device=DEVICE)[: len(sums)]

    monkeypatch.setattr(kernels, kernel, wrong)
    use_kernels(optimizer, torch.device(DEVICE))
    assert optimizer.kernels is None


def test_optimizers_without_kernels_are_left_alone(monkeypatch):
    parameter = torch.nn.Parameter(torch.ones(2))
    monkeypatch.setattr(optimizer_kernels, "compare", lambda *arguments: pytest.fail("tried"))
    for optimizer in (CASES["adafactor"][0]([parameter]), torch.optim.AdamW([parameter])):
        use_kernels(optimizer, torch.device(DEVICE))
        assert getattr(optimizer, "kernels", None) is None


def test_where_kernels_fail_in_one_process_all_do_without(kernels, on_this_device):
    ours, options = WITH_KERNELS["lion"]
    optimizer = ours([torch.nn.Parameter(torch.ones(2, device=DEVICE))], **options)
    use_kernels(optimizer, torch.device(DEVICE), anywhere=torch.ones_like)
    assert optimizer.kernels is None
    use_kernels(optimizer, torch.device(DEVICE))
    assert optimizer.kernels is kernels
