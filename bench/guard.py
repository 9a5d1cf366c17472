"""What `--nan_guard` costs: launches and host reads of an update with and without it, and its share of the processor time of a step.

python bench/guard.py [--steps 60] [--models sd1 sdxl]

Counted on tensors without values, as bench/count.py counts: the guard looks at the norms of all gradients at once, so their number
does not matter. Timed in a training run on a tiny model on the CPU, where the guard is switched on and off in turn and the clock runs
inside its calls too. A step of a full-size model takes far longer while the guard's work stays the same but for the latents' size.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.count import Counter
from library.training import network_recipe
from library.training.guard import OFF, SKIP, SNAPSHOT_EVERY, GuardSettings, NanGuard, clip, gradient_norms
from tests.golden_workshop import Workshop
from tests.tiny_runs import picture_folder, small_run

STEP_LAUNCHES = {"sd": 2_817, "sdxl": 5_713}
"""Of the whole step, from tests/test_launches.py."""


def counted(mode: str, fused: bool) -> Counter:
    """The launches and reads of one update: norms, guard, clipping and optimizer, its state being there already."""
    with FakeTensorMode():
        network = nn.ParameterList([nn.Parameter(torch.randn(8, 320)) for _ in range(6)])
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused, foreach=not fused)
        guard = NanGuard(GuardSettings(mode), network, optimizer, SimpleNamespace())
        for parameter in network:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        guard._snapshot = SimpleNamespace()
        step = SimpleNamespace(loss=torch.randn(()), latents=torch.randn(1, 4, 64, 64))
        on_host = [state["step"] for state in optimizer.state.values()]
        with Counter(on_host) as counter:
            trained, norms = gradient_norms(network.parameters())
            guard.note(step)
            guard._react = lambda verdict: bool(verdict.flags.read().any()) and False  # one read; then it does nothing
            guard.forbids(1, trained, norms)
            clip(trained, norms, 1.0)
            optimizer.step()
    return counter


class Stopwatch:
    """Processor time spent in a function, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def inside(self, function):
        def timed(*given, **named):
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.seconds += time.process_time() - start

        return timed


def timed(kind: str, steps: int, folder: Path, fused: bool) -> dict[str, float]:
    """Milliseconds of processor time: a step with the guard off, one with it on, and the guard's own calls, snapshots included."""
    model = Workshop(folder, Path("tests/golden")).model(kind)
    data = folder / "data" if (folder / "data").exists() else picture_folder(folder / "data", 4, repeats=1)
    options = ["--max_train_steps", str(steps), "--cache_latents", "--network_dim", "8", "--optimizer_args", f"fused={fused}"]
    run = small_run(model, data, folder / "out", *options)
    guard, inside = run.optimization.guard, Stopwatch()
    guard.note, guard.forbids = inside.inside(guard.note), inside.inside(guard.forbids)
    spent: dict[str, list[float]] = {OFF: [], SKIP: []}
    since = [time.process_time()]

    def switch(update) -> None:
        guard.settle()
        now = time.process_time()
        spent[guard.settings.mode].append(now - since[0])
        since[0] = now
        guard._steps = []
        guard.settings = GuardSettings(OFF if guard.settings.mode == SKIP else SKIP)

    run.update_watchers.append(switch)
    network_recipe.train(run)
    middle = {mode: sorted(times)[len(times) // 2] for mode, times in spent.items()}
    return {"off": 1e3 * middle[OFF], "on": 1e3 * middle[SKIP], "guard": 1e3 * inside.seconds / len(spent[SKIP])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--models", nargs="*", default=["sd1"], choices=["sd1", "sd2", "sdxl"], help="tiny models to time steps of")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| optimizer | launches for the guard | of an SD 1.5 step | of an SDXL step | host reads for the guard |\n|---|---|---|---|---|")
    for fused in (True, False):
        off, on = (counted(mode, fused).counts for mode in (OFF, SKIP))
        more, reads = on.launches - off.launches, on.host_reads - off.host_reads
        shares = " | ".join(f"{more / launches:.2%}" for launches in STEP_LAUNCHES.values())
        print(f"| {'AdamW, fused' if fused else 'AdamW, foreach'} | {more} | {shares} | {reads} |", flush=True)
    print(f"\nOnce in {SNAPSHOT_EVERY} updates weights and optimizer state are copied to main memory as well.\n")
    print("| tiny model | optimizer | ms per step, guard off | on | inside the guard | share |\n|---|---|---|---|---|---|")
    for kind in options.models:
        for fused in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                found = timed(kind, options.steps, Path(folder), fused)
            name = "fused" if fused else "foreach"
            off, on, guard = found["off"], found["on"], found["guard"]
            print(f"| {kind} | {name} | {off:.1f} | {on:.1f} | {guard:.2f} | {guard / off:.2%} |")


if __name__ == "__main__":
    main()
