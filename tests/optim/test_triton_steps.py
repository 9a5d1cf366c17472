"""The kernels of our optimizers run on a GPU if there is one, else in Triton's interpreter, beside the plain torch form."""

import logging
import math

import pytest
import torch

from library.training import optimizer_kernels
from library.training.optimizer_kernels import use_kernels
from tests.optim.test_multi_tensor import CASES, network
from tests.optim.with_triton import BY_KERNELS, DEVICE

pytestmark = BY_KERNELS
WITH_KERNELS = {
    name: (ours, options)
    for name, (ours, _, options) in CASES.items()
    if ours.one_pass and name != "prodigy sliced"
}
ONE_OF_EACH = ["lion decay", "prodigy usual", "dadapt adam decay", "dadapt preprint decay", "dadapt lion decay"]
WITHOUT_MOMENTUM = "prodigy no momentum"


def trained(optimizer_class, options, kernels=None, *, steps=3, dtype=torch.float32, gradient=lambda tensor: tensor):
    parameters = [torch.nn.Parameter(parameter.detach().to(DEVICE, dtype)) for parameter in network()]
    optimizer = optimizer_class([{"params": parameters[:3]}, {"params": parameters[3:]}], **options)
    optimizer.kernels = kernels
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters[:-1]:  # the last one never gets a gradient
            noise = torch.randn(parameter.shape, generator=generator).to(DEVICE, dtype)
            parameter.grad = gradient(parameter.detach() - 1 + 0.1 * noise)
        optimizer.step()
    return parameters, optimizer


def assert_near(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).float().norm() <= tolerance * other.float().norm()


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_steps_end_where_those_of_plain_torch_end(name, kernels, launches):
    case = WITH_KERNELS[name]
    parameters, optimizer = trained(*case, kernels)
    expected, twin = trained(*case)
    assert_near(parameters, expected, 1e-6)
    for group, other in zip(optimizer.state_dict()["param_groups"], twin.state_dict()["param_groups"], strict=True):
        assert group == {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for key, value in other.items()}
    for parameter, other in zip(parameters[:-1], expected, strict=False):
        for key, value in twin.state[other].items():
            torch.testing.assert_close(optimizer.state[parameter][key], value, rtol=1e-4, atol=1e-7)
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
    parameters, optimizer = trained(*WITH_KERNELS[name], kernels, steps=1)
    untouched, twin = trained(*WITH_KERNELS[name], kernels, steps=1)
    for parameter in parameters[:-1]:
        parameter.grad = torch.full_like(parameter, bad)
    optimizer.found_inf = torch.ones((), device=DEVICE)
    optimizer.step()
    optimizer.step_left_out()
    assert all(torch.equal(found, expected) for found, expected in zip(parameters, untouched, strict=True))
    optimizer.found_inf = torch.zeros((), device=DEVICE)
    for parameter, other in zip(parameters[:-1], untouched, strict=False):
        parameter.grad, other.grad = torch.full_like(parameter, 0.1), torch.full_like(other, 0.1)
    optimizer.step()
    twin.step()
    assert all(torch.equal(found, expected) for found, expected in zip(parameters, untouched, strict=True))
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
