"""bench/side_by_side.py: what it makes of two trainers' records."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def side_by_side():
    path = Path(__file__).parents[1] / "bench" / "side_by_side.py"
    spec = importlib.util.spec_from_file_location("bench_side_by_side", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their own module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def outcome(side_by_side):
    def made(losses=(0.5, 0.4, 0.3, 0.2), step=1.0, start=10.0):
        times = [start + step * number for number in range(len(losses))]
        times[-1] = times[-2]  # the last record comes together with the one before
        return side_by_side.Outcome(list(losses), times, start, times[-1] + 1, 100.0)

    return made


@pytest.fixture
def run_with(side_by_side, monkeypatch, tmp_path):
    """Call it with what each trainer's runs give, in their order; the program runs to its end, and the order of trainers comes back."""

    def run(ours, reference):
        left, order = {"ours": list(ours), "reference": list(reference)}, []

        def train(trainer, script, command, folder):
            order.append(trainer.name)
            return left[trainer.name].pop(0)

        monkeypatch.setattr(side_by_side, "run", train)
        monkeypatch.setattr(sys, "argv", ["side_by_side.py", "--reference", str(tmp_path), "--warm_up", "1", "--", "--seed=1"])
        side_by_side.main()
        return order

    return run


def test_trainers_take_turns_and_ratios_are_of_runs_beside_each_other(run_with, outcome, capsys):
    order = run_with([outcome(step=1.0), outcome(step=2.0)], [outcome(step=3.0), outcome(step=2.0)])
    assert order == ["ours", "reference", "reference", "ours"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step"))
    assert line.split() == ["step,", "times", "faster", "2.00", "from", "1.00", "to", "3.00"]


def test_no_speed_is_printed_for_losses_that_differ(run_with, outcome, capsys):
    with pytest.raises(SystemExit, match="the losses differ by up to 5.0e-01"):
        run_with([outcome()] * 2, [outcome(losses=(0.5, 0.4, 0.2, 0.2))] * 2)
    assert "faster" not in capsys.readouterr().out


def test_runs_of_different_length_do_not_agree(side_by_side):
    assert side_by_side.disagreement([1.0, 1.0], [1.0]) == float("inf")


def test_losses_and_times_come_from_tensorboard(side_by_side, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "run" / "network_train") as writer:
        for step in (1, 2):
            writer.add_scalar("loss/current", 0.5 * step, step, walltime=100.0 + step)
    assert side_by_side.records(tmp_path) == ([0.5, 1.0], [101.0, 102.0])


def test_a_run_that_fails_ends_with_its_last_words(side_by_side, tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit('no model')")
    trainer = side_by_side.Trainer("ours", tmp_path, sys.executable, [])
    with pytest.raises(SystemExit, match="ours ended with exit status 1:\nno model"):
        side_by_side.run(trainer, "fails.py", [], tmp_path / "out")


def test_a_command_line_without_a_seed_is_refused():
    program = Path(__file__).parents[1] / "bench" / "side_by_side.py"
    done = subprocess.run([sys.executable, program, "--reference", ".", "--", "--x"], capture_output=True, text=True)
    assert done.returncode == 2 and "needs --seed" in done.stderr
