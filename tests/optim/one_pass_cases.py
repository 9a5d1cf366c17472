"""What both kinds of one-pass steps, Triton's and those in C, are tested with: optimizers, short runs of them, and claims about those."""

import pytest
import torch

from tests.optim.test_multi_tensor import CASES, network
from tests.optim.with_triton import DEVICE

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


def assert_they_end_where_plain_torch_ends(case, kernels):
    parameters, optimizer = trained(*case, kernels)
    expected, twin = trained(*case)
    assert_near(parameters, expected, 1e-6)
    for group, other in zip(optimizer.state_dict()["param_groups"], twin.state_dict()["param_groups"], strict=True):
        assert group == {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for key, value in other.items()}
    for parameter, other in zip(parameters[:-1], expected, strict=False):
        for key, value in twin.state[other].items():
            torch.testing.assert_close(optimizer.state[parameter][key], value, rtol=1e-4, atol=1e-7)


def assert_a_step_left_out_has_not_been(case, kernels, bad):
    """bad: what all gradients of that step are."""
    parameters, optimizer = trained(*case, kernels, steps=1)
    untouched, twin = trained(*case, kernels, steps=1)
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
