"""Our multi-tensor optimizers against the packages they stand in for."""

import copy
import math

import dadaptation
import lion_pytorch
import prodigyopt
import pytest
import torch
from dadaptation import experimental
from transformers.optimization import Adafactor as PackageAdafactor

from library.optim import multi_tensor
from library.optim.adafactor import Adafactor
from library.optim.dadapt import DAdaptAdam, DAdaptAdamPreprint, DAdaptLion
from library.optim.dadapt_adan import DAdaptAdan, DAdaptAdanIP
from library.optim.dadapt_dual_averaging import DAdaptAdaGrad, DAdaptSGD
from library.optim.lion import Lion
from library.optim.multi_tensor import absolute_sum, products_sum
from library.optim.prodigy import Prodigy

SHAPES = [(4, 32), (32, 4), (4, 32, 3, 3), (64, 4, 1, 1), (4, 7), (1,)]
CASES = {
    "lion": (Lion, lion_pytorch.Lion, {"lr": 1e-3}),
    "lion decay": (Lion, lion_pytorch.Lion, {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    "lion decoupled": (Lion, lion_pytorch.Lion, {"lr": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adafactor": (Adafactor, PackageAdafactor, {}),
    "adafactor warm-up": (Adafactor, PackageAdafactor, {"warmup_init": True, "clip_threshold": 0.5}),
    "adafactor usual": (Adafactor, PackageAdafactor, {"lr": 1e-3, "relative_step": False, "scale_parameter": False}),
    "adafactor decay": (Adafactor, PackageAdafactor, {"lr": 1e-2, "relative_step": False, "weight_decay": 0.1, "beta1": 0.9}),
    "prodigy": (Prodigy, prodigyopt.Prodigy, {"d0": 1e-4}),
    "prodigy usual": (
        Prodigy,
        prodigyopt.Prodigy,
        {"d0": 1e-4, "weight_decay": 0.01, "use_bias_correction": True, "safeguard_warmup": True, "d_coef": 2, "betas": (0.9, 0.99)},
    ),
    "prodigy coupled": (Prodigy, prodigyopt.Prodigy, {"d0": 1e-4, "weight_decay": 0.01, "decouple": False, "growth_rate": 1.02}),
    "prodigy no momentum": (Prodigy, prodigyopt.Prodigy, {"d0": 1e-4, "betas": (0.0, 0.99), "beta3": 0.9}),
    "prodigy sliced": (Prodigy, prodigyopt.Prodigy, {"d0": 1e-4, "slice_p": 3}),
    "dadapt adam": (DAdaptAdam, dadaptation.DAdaptAdam, {"d0": 1e-4}),
    "dadapt adam decay": (DAdaptAdam, dadaptation.DAdaptAdam, {"d0": 1e-4, "weight_decay": 0.1, "decouple": True, "growth_rate": 1.02}),
    "dadapt adam coupled": (DAdaptAdam, dadaptation.DAdaptAdam, {"d0": 1e-4, "weight_decay": 0.1, "use_bias_correction": True}),
    "dadapt preprint": (DAdaptAdamPreprint, experimental.DAdaptAdamPreprint, {"d0": 1e-4, "growth_rate": 1.2}),
    "dadapt preprint decay": (
        DAdaptAdamPreprint, experimental.DAdaptAdamPreprint, {"d0": 1e-4, "weight_decay": 0.1, "decouple": True, "growth_rate": 1.02},
    ),
    "dadapt preprint coupled": (
        DAdaptAdamPreprint, experimental.DAdaptAdamPreprint, {"d0": 1e-4, "weight_decay": 0.1, "betas": (0.8, 0.9)},
    ),
    "dadapt lion": (DAdaptLion, dadaptation.DAdaptLion, {"d0": 1e-4}),
    "dadapt sgd": (DAdaptSGD, dadaptation.DAdaptSGD, {"d0": 1e-4}),
    "dadapt sgd decay": (DAdaptSGD, dadaptation.DAdaptSGD, {"d0": 1e-4, "weight_decay": 0.1, "momentum": 0.9, "growth_rate": 1.2}),
    "dadapt adagrad": (DAdaptAdaGrad, dadaptation.DAdaptAdaGrad, {"d0": 1e-4}),
    "dadapt adagrad decay": (
        DAdaptAdaGrad, dadaptation.DAdaptAdaGrad, {"d0": 1e-4, "weight_decay": 0.1, "momentum": 0.9, "growth_rate": 1.2},
    ),
    "dadapt adan": (DAdaptAdan, dadaptation.DAdaptAdan, {"d0": 1e-4}),
    "dadapt adan decay": (DAdaptAdan, dadaptation.DAdaptAdan, {"d0": 1e-4, "weight_decay": 0.1, "no_prox": True, "growth_rate": 1.2}),
    "dadapt adan ip": (DAdaptAdanIP, experimental.DAdaptAdanIP, {"d0": 1e-4, "weight_decay": 0.0, "betas": (0.9, 0.9, 0.99)}),
    "dadapt adan ip decay": (DAdaptAdanIP, experimental.DAdaptAdanIP, {"d0": 1e-4, "weight_decay": 0.1, "growth_rate": 1.2}),
    "dadapt lion decay": (DAdaptLion, dadaptation.DAdaptLion, {"d0": 1e-4, "weight_decay": 0.1}),
}  # fmt: skip


def network():
    """LoRA-like parameters: every second one starts at zero."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator) * (index % 2)) for index, shape in enumerate(SHAPES)]


def trained(optimizer_class, options, steps=50):
    """The parameters and the optimizer after pulling the parameters towards fixed places with noisy gradients."""
    parameters = network()
    optimizer = optimizer_class([{"params": parameters[:3]}, {"params": parameters[3:]}], **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters[:-1]:  # the last one never gets a gradient
            parameter.grad = parameter.detach() - 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fifty_steps_end_where_the_package_ends(case):
    ours, package, options = case
    for found, expected in zip(trained(ours, options)[0], trained(package, options)[0], strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_saved_state_is_the_packages(case):
    ours, package, options = case
    found, expected = trained(ours, options, steps=3)[1].state_dict(), trained(package, options, steps=3)[1].state_dict()
    assert found["state"].keys() == expected["state"].keys()
    assert [sorted(state) for state in found["state"].values()] == [sorted(state) for state in expected["state"].values()]
    for group, other in zip(found["param_groups"], expected["param_groups"], strict=True):
        plain = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in other.items()}
        assert group == {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for key, value in plain.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training_goes_on_from_the_packages_state(case):
    ours, package, options = case
    parameters, saved = trained(package, options, steps=5)
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    resumed = ours([{"params": copies[:3]}, {"params": copies[3:]}], **options)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for parameter, twin in zip(parameters[:-1], copies, strict=False):
        parameter.grad, twin.grad = torch.ones_like(parameter), torch.ones_like(twin)
    saved.step()
    resumed.step()
    for found, expected in zip(copies, parameters, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_adafactor_rounds_half_precision_weights_once_like_the_package():
    options = {"lr": 1e-2, "relative_step": False, "weight_decay": 0.1}
    found, expected = ([parameter.detach().bfloat16().requires_grad_() for parameter in network()] for _ in range(2))
    optimizers = Adafactor(found, **options), PackageAdafactor(expected, **options)
    for step in range(5):
        for parameter in [*found, *expected]:
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "name", ["lion decay", "prodigy usual", "prodigy no momentum", "dadapt adam decay", "dadapt preprint decay", "dadapt lion decay"]
)
def test_half_precision_weights_move_as_the_packages(name):
    """To bf16's rounding, which the package applies after each operation and ours once."""
    moved = []
    for optimizer_class in CASES[name][:2]:
        parameters = [parameter.detach().bfloat16().requires_grad_() for parameter in network()]
        optimizer = optimizer_class(parameters, **CASES[name][2] | ({"d0": 1e-2} if "d0" in CASES[name][2] else {"lr": 0.05}))
        for step in range(5):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
            optimizer.step()
        moved.append(torch.cat([(end.float() - start).flatten() for end, start in zip(parameters, network(), strict=True)]))
    assert (moved[0] - moved[1]).norm() <= 0.1 * moved[1].norm()


@pytest.mark.parametrize("optimizer_class", [Prodigy, DAdaptAdam, DAdaptAdamPreprint, DAdaptLion, DAdaptSGD])
def test_two_rates_are_refused(optimizer_class):
    parameters = network()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match="one learning rate"):
        optimizer_class([{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.5}]).step()


@pytest.mark.parametrize("optimizer_class", list(dict.fromkeys(ours for ours, _, _ in CASES.values())))
def test_a_step_reads_nothing_from_the_device(optimizer_class, monkeypatch):
    optimizer = trained(optimizer_class, {}, steps=2)[1]
    count = [0]
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, plain=plain: (count.__setitem__(0, count[0] + 1), plain(self))[1])
    optimizer.step()
    assert count[0] == 0


LEAVING_OUT = {name: (ours, options) for name, (ours, _, options) in CASES.items() if "slice_p" not in options}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("case", LEAVING_OUT.values(), ids=LEAVING_OUT)
def test_a_step_that_is_left_out_has_not_been(case, steps_before, bad):
    parameters, optimizer = trained(*case, steps=steps_before)
    untouched, twin = trained(*case, steps=steps_before)
    for parameter in parameters[:-1]:
        parameter.grad = torch.full_like(parameter, bad)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    optimizer.step_left_out()
    for found, expected in zip(parameters, untouched, strict=True):
        assert torch.equal(found, expected)
    optimizer.found_inf = torch.zeros(())
    for count in range(3):
        for parameter, other in zip(parameters[:-1], untouched, strict=False):
            parameter.grad, other.grad = torch.full_like(parameter, 0.1 + count), torch.full_like(other, 0.1 + count)
        optimizer.step()
        twin.step()
    for found, expected in zip(parameters, untouched, strict=True):
        assert torch.equal(found, expected) and bool(found.isfinite().all())


@pytest.mark.parametrize("case", LEAVING_OUT.values(), ids=LEAVING_OUT)
def test_gradients_may_lie_otherwise_in_memory_than_their_parameters(case):
    parameters, optimizer = trained(*case, steps=2)
    others, twin = trained(*case, steps=2)
    for parameter, other in zip(parameters[:-1], others, strict=False):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        other.grad = parameter.grad.transpose(0, -1).contiguous().transpose(0, -1)
    optimizer.step()
    twin.step()
    for found, expected in zip(others, parameters, strict=True):
        assert torch.equal(found, expected)


def test_large_parameters_are_worked_on_in_parts(monkeypatch):
    for device, name in (("cpu", "CPU_PART"), ("meta", "GPU_PART")):
        monkeypatch.setattr(multi_tensor, name, 5)
        parameters = [torch.nn.Parameter(torch.ones(size, device=device)) for size in (4, 1, 9, 2)]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        parts = multi_tensor.with_gradients({"params": parameters})
        assert [[parameter.numel() for parameter in part] for part, _ in parts] == [[4, 1], [9], [2]]


def warmed_up(optimizer_class, options, rates):
    """The parameters after a step at each of the rates, with gradients that differ from step to step."""
    parameters = network()
    optimizer = optimizer_class(parameters, **options)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        for parameter in parameters:
            parameter.grad = parameter.detach() - 1 + 0.1 * step
        optimizer.step()
    return parameters


@pytest.mark.parametrize("name", ["dadapt adam", "dadapt preprint", "dadapt lion", "dadapt adagrad", "dadapt adan", "dadapt adan ip"])
def test_a_warm_up_may_begin_at_zero_as_in_the_package(name):
    ours, package, options = CASES[name]
    ends = [warmed_up(kind, options, (0.0, 0.0, 0.5, 1.0, 0.0, 1.0)) for kind in (ours, package)]
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dadapt adam", "dadapt preprint", "dadapt lion", "dadapt adagrad", "dadapt adan", "dadapt adan ip"])
def test_first_gradients_may_be_zero_as_in_the_package(name):
    ours, package, options = CASES[name]
    ends = []
    for kind in (ours, package):
        parameters = network()
        optimizer = kind(parameters, **options)
        for step in range(6):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if step < 2 else parameter.detach() - 1 + 0.1 * step
            optimizer.step()
        ends.append(parameters)
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_warm_up_may_begin_at_zero_where_the_package_divides_by_it():
    options = CASES["dadapt sgd"][2]
    parameters = network()
    with pytest.raises(ZeroDivisionError):
        warmed_up(dadaptation.DAdaptSGD, options, (0.0,))
    assert all(torch.equal(found, start) for found, start in zip(warmed_up(DAdaptSGD, options, (0.0,)), parameters, strict=True))
    moved = warmed_up(DAdaptSGD, options, (0.0, 0.5, 1.0))
    assert all(bool(found.isfinite().all()) and not torch.equal(found, start) for found, start in zip(moved, parameters, strict=True))


@pytest.mark.parametrize("ours, package", [CASES[name][:2] for name in ("prodigy", "dadapt adam", "dadapt preprint", "dadapt lion")])
def test_groups_whose_rate_is_zero_are_treated_as_in_the_package(ours, package):
    ends = []
    for kind in (ours, package):
        parameters = [torch.nn.Parameter(torch.full((4,), 2.0)) for _ in range(2)]
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.0}]
        options = {"weight_decay": 0.5, "d0": 1e-2} | ({} if "Lion" in kind.__name__ else {"decouple": True})
        optimizer = kind(groups, lr=1.0, **options)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        ends.append(torch.stack([parameter.detach() for parameter in parameters]))
    torch.testing.assert_close(ends[0], ends[1])


def test_one_list_may_hold_tensors_of_several_dtypes():
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    Lion(parameters, lr=0.5).step()
    assert [parameter.tolist() for parameter in parameters] == [[0.5] * 3] * 2


def test_sums_on_an_accelerator_read_nothing():
    left = [torch.ones(2, 3, device="meta"), torch.ones(4, device="meta")]  # a host read of a meta tensor raises
    assert products_sum(left, left).shape == absolute_sum(left).shape == ()


def test_sums_are_sums_over_all_tensors():
    left, right = [torch.tensor([[1.0, -2.0]]), torch.tensor([3.0])], [torch.tensor([[4.0, 5.0]]), torch.tensor([-6.0])]
    assert (products_sum(left, right).item(), absolute_sum(right).item()) == (-24, 15)
