"""The 8-bit optimizers against bitsandbytes, and AdamW's kernel against its arithmetic written out in torch.

On the CPU the package finds the bytes of states by a coarse table, so that states can be compared with it on a GPU alone.
"""

import copy
import math

import bitsandbytes.optim
import pytest
import torch
from bitsandbytes.optim import optimizer as package

from library.optim import eight_bit
from library.training import optimizer_kernels
from tests.optim.with_triton import BY_KERNELS, DEVICE

SHAPES = [(70, 60), (8, 8), (64, 64), (1, 4097)]  # the second is too small for states in bytes
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 2e-2}  # the interpreter cuts bf16 off instead of rounding
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1}


def trained(optimizer_class, with_kernels=None, *, steps=3, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in SHAPES]
    optimizer = optimizer_class([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 2e-2}], **OPTIONS)
    if with_kernels is not None:
        optimizer.kernels = with_kernels
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(device, dtype)
        optimizer.step()
    return parameters, optimizer


def in_blocks(values: torch.Tensor) -> torch.Tensor:
    """Values one after the other, in rows of 256 filled up with zeros."""
    return torch.nn.functional.pad(values.flatten(), (0, -values.numel() % 256)).view(-1, 256)


def meant(codes, largest, table):
    return (table[in_blocks(codes).long()] * largest[:, None]).flatten()[: codes.numel()].view(codes.shape)


def coded(values, table):
    """The nearest entry for each share in its row's largest number; below zero never zero. Returns codes and the largest numbers."""
    rows = in_blocks(values)
    largest = rows.abs().amax(dim=1)
    shares = rows / largest[:, None]
    distances = (shares[..., None] - table).abs()
    codes = distances.argmin(dim=-1)
    codes -= ((shares < 0) & (table[codes] >= 0)).long()
    return codes.flatten()[: values.numel()].view(values.shape).to(torch.uint8), largest


class WrittenOut(eight_bit.AdamW8bit):
    """AdamW with states in bytes, as bitsandbytes' CUDA kernel computes it."""

    def update_step(self, group, p, gindex, pindex):
        state = self.state[p]
        state["step"] += 1
        beta1, beta2, step_size, eps, kept = eight_bit.constants(group, state["step"])
        in_bytes = state["state1"].dtype == torch.uint8
        first, second = (
            meant(state[f"state{n}"], state[f"absmax{n}"], state[f"qmap{n}"]) if in_bytes else state[f"state{n}"] for n in (1, 2)
        )
        gradient = p.grad.float()
        first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
        p.copy_((p.float() - step_size * first / (second.sqrt() + eps)) * kept)
        for number, value in ((1, first), (2, second)):
            if in_bytes:
                state[f"state{number}"], state[f"absmax{number}"] = coded(value, state[f"qmap{number}"])
            else:
                state[f"state{number}"] = value


@pytest.mark.parametrize("name", ["AdamW8bit", "Lion8bit", "SGD8bit"])
def test_steps_are_the_packages_without_its_waits(name, monkeypatch):
    options = {"momentum": 0.9} if name == "SGD8bit" else {}
    expected = trained(lambda groups, **rest: getattr(bitsandbytes.optim, name)(groups, **rest, **options))
    monkeypatch.setattr(package, "sync_gpu", lambda tensor: pytest.fail("waited for the GPU"))
    found = trained(lambda groups, **rest: getattr(eight_bit, name)(groups, **rest, **options))
    assert all(torch.equal(one, other) for one, other in zip(found[0], expected[0], strict=True))
    assert same_states(found[1], expected[1])
    assert not found[1].leaves_out()


@pytest.mark.parametrize("name", ["AdamW8bit", "Lion8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_states_in_paged_memory_keep_the_packages_waits(name, monkeypatch):
    waits = []
    monkeypatch.setattr(package, "sync_gpu", waits.append)
    trained(lambda groups, **rest: getattr(eight_bit, name)(groups, **rest, is_paged=True), steps=1)
    assert len(waits) > len(SHAPES)


def same_states(one, other) -> bool:
    states = [optimizer.state_dict()["state"] for optimizer in (one, other)]
    assert [sorted(state) for state in states[0].values()] == [sorted(state) for state in states[1].values()]
    return all(same(states[0][key][name], states[1][key][name]) for key in states[0] for name in states[0][key])


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


class TestByKernels:
    pytestmark = BY_KERNELS

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_step_does_the_arithmetic_of_the_package(self, dtype, kernels, launches):
        parameters, optimizer = trained(eight_bit.AdamW8bit, kernels, dtype=dtype, device=DEVICE)
        expected, twin = trained(WrittenOut, dtype=dtype, device=DEVICE)
        for found, other in zip(parameters, expected, strict=True):
            assert (found - other).float().norm() <= TOLERANCE[dtype] * other.float().norm()
            for name, value in twin.state[other].items():
                kept = optimizer.state[found][name]
                if torch.is_tensor(value) and value.dtype == torch.uint8:  # one place beside where both are all but equally near
                    apart = (kept.int() - value.int()).abs()
                    assert apart.max() <= 1 and (apart > 0).float().mean() < 2e-3
                else:
                    torch.testing.assert_close(kept, value, rtol=1e-4, atol=1e-7)
        assert launches == ["adamw_8bit", "adamw_small", "adamw_8bit"] * 3

    def test_training_goes_on_between_the_package_and_kernels(self, kernels):
        parameters, saved = trained(bitsandbytes.optim.AdamW8bit, device=DEVICE)
        state = copy.deepcopy(saved.state_dict())
        copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        resumed = eight_bit.AdamW8bit([{"params": copies[:2]}, {"params": copies[2:], "lr": 2e-2}], **OPTIONS)
        resumed.load_state_dict(state)
        resumed.kernels = kernels
        for one, other in zip(copies, parameters, strict=True):
            one.grad, other.grad = torch.ones_like(one), torch.ones_like(other)
        resumed.step()
        saved.step()
        for one, other in zip(copies, parameters, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # the package decays weights before the step on the CPU

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_step_that_is_left_out_has_not_been(self, bad, kernels):
        parameters, optimizer = trained(eight_bit.AdamW8bit, kernels, steps=2, device=DEVICE)
        untouched, twin = trained(eight_bit.AdamW8bit, kernels, steps=2, device=DEVICE)
        assert optimizer.leaves_out()
        optimizer.found_inf = torch.ones((), device=DEVICE)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, bad)
        optimizer.step()
        optimizer.step_left_out()
        assert all(torch.equal(one, other) for one, other in zip(parameters, untouched, strict=True)) and same_states(optimizer, twin)
        optimizer.found_inf = torch.zeros((), device=DEVICE)
        for one, other in zip(parameters, untouched, strict=True):
            one.grad, other.grad = torch.ones_like(one), torch.ones_like(other)
        optimizer.step()
        twin.step()
        assert all(torch.equal(one, other) for one, other in zip(parameters, untouched, strict=True)) and same_states(optimizer, twin)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_gradients_that_are_not_finite_are_passed_over_one_by_one(self, bad, kernels):
        parameter = torch.nn.Parameter(torch.ones(64, 128, device=DEVICE))
        optimizer = eight_bit.AdamW8bit([parameter], lr=0.1)
        optimizer.kernels = kernels
        for _ in range(2):
            parameter.grad = torch.ones_like(parameter)
            parameter.grad[0, 3] = bad
            optimizer.step()
        assert parameter[0, 3] == 1 and bool((parameter < 0.85).sum() == parameter.numel() - 1)

    def test_blocks_of_zeros_stay_zero(self, kernels):
        parameter = torch.nn.Parameter(torch.ones(64, 128, device=DEVICE))
        optimizer = eight_bit.AdamW8bit([parameter], lr=0.1, weight_decay=0)
        optimizer.kernels = kernels
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[0] = 1.0
        for _ in range(2):
            optimizer.step()
        assert torch.equal(parameter[1:], torch.ones_like(parameter[1:])) and bool((parameter[0] < 0.85).all())

    def test_settings_for_single_parameters_go_the_packages_way(self, kernels, launches, monkeypatch):
        optimizer = eight_bit.AdamW8bit([torch.nn.Parameter(torch.ones(64, 64))])
        optimizer.kernels = kernels
        assert optimizer.leaves_out()
        for name, value in (("percentile_clipping", 5), ("block_wise", False), ("skip_zeros", True), ("max_unorm", 1.0)):
            with monkeypatch.context() as patched:
                patched.setattr(optimizer.args, name, value, raising=False)
                assert not optimizer.leaves_out()
        monkeypatch.setitem(optimizer.mng.pid2config, 0, {"optim_bits": 32})
        assert not optimizer.leaves_out()

    def test_kernels_are_tried_with_states_in_bytes(self, kernels, launches, on_this_device):
        optimizer = eight_bit.AdamW8bit([torch.nn.Parameter(torch.ones(2, 2, device=DEVICE))], **OPTIONS)
        optimizer_kernels.use_kernels(optimizer, torch.device(DEVICE))
        assert optimizer.kernels is kernels and set(launches) == {"adamw_8bit", "adamw_small"}
        assert not optimizer.state
