"""One process of the test with several of them: trains command lines in turn and writes what it saw into a file of its own.

Started by `accelerate launch`: process_worker.py REPORT_FOLDER RUNS.json, a list of (environment variables, command line). Random
numbers of each micro step depend on its images' names alone, so that any number of processes draws the same for the same images.
"""

import json
import os
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.offline import go_offline

go_offline()


def gradients(optimizer):
    """All gradients that a step of the optimizer uses, flat: zeros for parameters without one."""
    import torch

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad.detach()).flatten() for each in parameters])


def train_and_watch(argv: list[str]) -> dict:
    """Trains; the images and noise of each micro step, what stood on the console, and the gradients of each step of the optimizer."""
    import torch

    from library.training import header, network_recipe
    from tests.golden_workshop import read_command_line

    torch.set_num_threads(1)
    real_loss, real_header, headers, first_draws = network_recipe.training_loss, header.run_header, [], []

    def loss_by_images(batch, parts, settings):
        first_draws.append(torch.rand(1).item())
        torch.manual_seed(zlib.crc32(" ".join(map(os.path.basename, batch.image_keys)).encode()))
        return real_loss(batch, parts, settings)

    def kept_header(*facts):
        headers.append(real_header(*facts))
        return headers[-1]

    network_recipe.training_loss, header.run_header = loss_by_images, kept_header
    try:
        run = network_recipe.prepare(*read_command_line("sd", argv))
        images, updates, used = [], [], []
        run.watchers.append(lambda step: images.append([Path(key).name for key in step.batch.image_keys]))
        run.update_watchers.append(lambda update: updates.append(len(images)))
        run.optimization.built.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(gradients(optimizer).tolist()))
        network_recipe.train(run)
    finally:
        network_recipe.training_loss, header.run_header = real_loss, real_header
    return {
        "images": images, "updates": updates, "header": "\n".join(headers), "draws": first_draws,
        "gradients": used, "held": sum(held(parameter) for parameter in run.models.unet.parameters()),
        "epochs": run.plan.num_epochs, "rates": run.optimization.built.optimizer.param_groups[0]["lr"],
    }  # fmt: skip


def held(parameter) -> int:
    """How many numbers of it lie in this process."""
    return (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()


def stay_connected() -> None:
    """The end of a run parts the processes for good: connecting them a second time does not work reliably."""
    import torch

    torch.distributed.destroy_process_group = lambda *_: None


def forget_run() -> None:
    """accelerate keeps one state for a process: the next run begins without it."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()


if __name__ == "__main__":
    stay_connected()
    reports = []
    for environment, argv in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        os.environ.update(environment)
        reports.append(train_and_watch(argv))
        forget_run()
    report = Path(sys.argv[1]) / f"{os.environ['RANK']}.json"
    report.write_text(json.dumps(reports), encoding="utf-8")
