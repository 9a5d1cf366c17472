"""The optimizers' steps in C, beside the plain torch form."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from library.optim import cpu_steps
from library.optim.eight_bit import AdamW8bit
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
from tests.optim.test_multi_tensor import CASES

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(cpu_steps.compiler() is None, reason="needs a C compiler")


@pytest.fixture
def used(monkeypatch):
    """The steps that were taken in C, by name."""
    names, launch = [], cpu_steps.CSteps.launch
    monkeypatch.setattr(cpu_steps.CSteps, "launch", lambda steps, name, *rest: (names.append(name), launch(steps, name, *rest))[1])
    return names


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_steps_end_where_those_of_plain_torch_end(name, used):
    assert_they_end_where_plain_torch_ends(WITH_KERNELS[name], cpu_steps.STEPS)
    assert bool(used) == (name != WITHOUT_MOMENTUM)


def large(ours, options, kernels, threads=1):
    """Two steps on a tensor of many pieces and one of a single number; d too, where there is one."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (300_001, 1)]
    optimizer = ours(parameters, **options)
    optimizer.kernels = kernels
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    torch.set_num_threads(before)
    found = optimizer.state_dict()["param_groups"][0].get("d", 0.0)
    return [*(parameter.detach() for parameter in parameters), torch.tensor(found, dtype=torch.float64)]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_large_tensors_are_worked_on_piece_by_piece(name, used):
    case = WITH_KERNELS[name]
    assert_near(large(*case, cpu_steps.STEPS), large(*case, None), 1e-6)
    assert used


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_number_of_threads_changes_no_bit(name, used):
    case = WITH_KERNELS[name]
    for one, three in zip(large(*case, cpu_steps.STEPS), large(*case, cpu_steps.STEPS, threads=3), strict=True):
        assert torch.equal(one, three)
    assert used


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_that_is_left_out_has_not_been(name, bad, used):
    assert_a_step_left_out_has_not_been(WITH_KERNELS[name], cpu_steps.STEPS, bad)
    assert used


@pytest.mark.parametrize("name", [*ONE_OF_EACH, WITHOUT_MOMENTUM])
def test_an_optimizer_gets_them_once_they_have_taken_its_own_steps(name, used):
    ours, options = WITH_KERNELS[name]
    optimizer = ours([torch.nn.Parameter(torch.ones(2, 2))], **options)
    before = optimizer.state_dict()
    use_kernels(optimizer, CPU)
    assert optimizer.kernels is cpu_steps.STEPS and bool(used) == (name != WITHOUT_MOMENTUM)
    assert optimizer.state_dict() == before


def test_half_precision_and_optimizers_without_such_steps_are_left_alone(caplog):
    adafactor = CASES["adafactor"][0]([torch.nn.Parameter(torch.ones(2))])
    half = WITH_KERNELS["lion"][0]([torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])
    for optimizer in (adafactor, half, AdamW8bit([torch.nn.Parameter(torch.ones(2))])):
        use_kernels(optimizer, CPU)
        assert optimizer.kernels is None
    assert not caplog.messages


def test_tensors_that_lie_otherwise_in_memory_take_the_plain_form(used):
    _, optimizer = trained(*WITH_KERNELS["dadapt lion"], steps=1)
    for state in optimizer.state.values():
        state["s"] = state["s"].transpose(0, -1).contiguous().transpose(0, -1)
    optimizer.kernels = cpu_steps.STEPS
    optimizer.step()
    assert not used


def in_a_new_process(compiler: str, tmp_path: Path) -> str:
    """What a process whose C compiler this is says of the steps of Lion."""
    program = (
        "import logging, torch; logging.basicConfig(format='%(message)s')\n"
        "from library.optim.lion import Lion\n"
        "from library.training.optimizer_kernels import use_kernels\n"
        "optimizer = Lion([torch.nn.Parameter(torch.ones(2))]); use_kernels(optimizer, torch.device('cpu')); print(optimizer.kernels)"
    )
    environment = {"PATH": str(tmp_path)} | ({"CC": compiler} if compiler else {})
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True)
    return found.stderr.strip() + found.stdout.strip()


def test_without_a_compiler_nothing_is_said(tmp_path):
    assert in_a_new_process("", tmp_path) == "None"


def test_a_compiler_that_fails_is_told_in_one_line(tmp_path):
    said = in_a_new_process("no_such_compiler", tmp_path)
    told = "steps of Lion are computed without kernels, a little slower: the C compiler no_such_compiler does not work here ("
    assert said.startswith(told) and said.endswith(")None") and "\n" not in said


def test_what_the_compiler_says_is_passed_on(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'error: no space left' >&2; exit 1")
    compiler.chmod(0o755)
    assert in_a_new_process("", tmp_path).endswith("does not work here (error: no space left)None")


def test_a_compiler_that_does_not_know_the_processor_compiles_for_any(tmp_path):
    compiler = tmp_path / "cc"
    real = cpu_steps.compiler()
    compiler.write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\ncase \"$*\" in *native*) exit 1;; esac; exec {real} \"$@\"")
    compiler.chmod(0o755)
    assert "CSteps" in in_a_new_process("", tmp_path)


def test_functions_whose_numbers_are_wrong_are_not_used(monkeypatch, caplog):
    ours, options = WITH_KERNELS["lion"]
    optimizer = ours([torch.nn.Parameter(torch.ones(2))], **options)
    right = cpu_steps.CSteps.lion
    monkeypatch.setattr(cpu_steps.CSteps, "lion", lambda steps, unless, lists, rate, *rest: right(steps, unless, lists, rate * 1.05, *rest))
    with caplog.at_level(logging.WARNING):
        use_kernels(optimizer, CPU)
    assert optimizer.kernels is None
    assert caplog.messages[-1].endswith("does not work here (its numbers in torch.float32 are not those of plain torch)")
