import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from library.optim.adafactor import Adafactor
from library.optim.eight_bit import AdamW8bit
from library.optim.lion import Lion
from library.optim.prodigy import Prodigy
from library.training.guard import GuardSettings, NanGuard, TrainingRuined, clip, gradient_norms, weights_are_finite
from library.training.optimization import Optimization

OPTIMIZERS = {  # the first three are judged by the host, the others leave a step out on the device
    "AdamW foreach": partial(torch.optim.AdamW, fused=False),
    "AdamW8bit": AdamW8bit,
    "SGD fused": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "AdamW fused": partial(torch.optim.AdamW, fused=True),
    "Lion": Lion,
    "Prodigy": Prodigy,
    "Adafactor": partial(Adafactor, relative_step=False),
}


class Scene:
    """A network of two tensors, an optimizer with momentum, and the guard that stands before its updates."""

    def __init__(self, mode="skip", patience=5, kind="AdamW foreach"):
        torch.manual_seed(0)
        self.network = nn.ParameterDict({"down": torch.randn(3, 4), "up": torch.randn(4, 3)})
        self.optimizer = OPTIMIZERS[kind](self.network.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.guard = NanGuard(GuardSettings(mode, patience), self.network, self.optimizer, self.schedule)
        self.step = 0

    def update(self, *, bad: float | None = None, loss: float = 0.5, latents: float = 0.0) -> bool:
        """One update; `bad` stands in one place of the gradient of `up`. Returns whether the guard let it pass."""
        self.step += 1
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.network.values():
            parameter.grad = torch.full_like(parameter, 0.1 * self.step)
        if bad is not None:
            self.network["up"].grad[0, 0] = bad
        self.guard.note(micro_step(loss, latents))
        parameters, norms = gradient_norms(self.network.parameters())
        forbidden = self.guard.forbids(self.step, parameters, norms)
        clip(parameters, norms, 1.0)
        if not forbidden:
            self.optimizer.step()
        return not forbidden

    def values(self) -> list[torch.Tensor]:
        """Weights, and what the optimizer keeps for each of them; Adafactor's RMS only describes the weights."""
        states = (self.optimizer.state[parameter] for parameter in self.network.values())
        kept = [value for own in states for name, value in own.items() if name != "RMS"]
        kept += [group[name] for group in self.optimizer.state_dict()["param_groups"] for name in ("d", "k", "d_max") if name in group]
        return [torch.as_tensor(value).detach().clone() for value in [*self.network.values(), *kept]]


def micro_step(loss, latents):
    batch = SimpleNamespace(image_keys=["girl 01.png", "girl 02.png"], captions=["sks girl", "sks girl, hat"])
    return SimpleNamespace(
        epoch=3, timesteps=torch.tensor([12, 801]), batch=batch, loss=torch.tensor(loss), latents=torch.full((2, 4, 8, 8), latents)
    )


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("what", [{"bad": math.nan}, {"bad": math.inf}, {"bad": math.nan, "loss": math.nan}, {"latents": math.inf}])
def test_a_bad_update_changes_neither_weights_nor_optimizer_state(what, kind):
    scene = Scene(kind=kind)
    scene.update()
    before = scene.values()
    scene.update(**what)
    scene.guard.settle()
    assert same(scene.values(), before)
    scene.update()
    assert not same(scene.values(), before)
    assert weights_are_finite(scene.network) and scene.guard.skipped == 1


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_bad_first_update_leaves_no_trace_in_the_second(kind):
    scene, fresh = Scene(kind=kind), Scene(kind=kind)
    scene.update(bad=math.nan)
    fresh.step += 1  # the second update of both has the same gradients
    scene.update()
    fresh.update()
    scene.guard.settle()
    assert same(scene.values(), fresh.values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_good_updates_are_those_without_a_guard(kind):
    guarded, free = Scene(kind=kind), Scene(mode="off", kind=kind)
    for _ in range(4):
        assert guarded.update() and free.update()
    assert same(guarded.values(), free.values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_bad_in_another_process_is_left_out_here_too(kind):
    scene = Scene(kind=kind)
    scene.update()
    before = scene.values()
    scene.guard._anywhere = lambda flags: torch.tensor([False, True, False])
    scene.update()
    scene.guard.settle()
    assert same(scene.values(), before) and scene.guard.skipped == 1


def test_off_lets_everything_pass():
    scene = Scene(mode="off")
    assert scene.update(bad=math.nan)
    assert not weights_are_finite(scene.network)


def test_the_message_names_step_epoch_files_captions_timesteps_and_module(caplog):
    scene = Scene()
    scene.update()
    scene.update(bad=math.nan, loss=math.nan)
    images = ("girl 01.png: sks girl", "girl 02.png: sks girl, hat")
    for text in ("step 2", "epoch 3", *images, "[12, 801]", "loss, gradient", "1 of 2 tensors, first up", "--no_half_vae"):
        assert text in caplog.text


def test_stop_ends_the_run_after_so_many_in_a_row():
    scene = Scene(mode="stop", patience=3)
    scene.update(bad=math.nan)
    scene.update(bad=math.nan)
    scene.update()
    scene.update(bad=math.nan)
    scene.update(bad=math.nan)
    with pytest.raises(TrainingRuined, match="3 updates in a row"):
        scene.update(bad=math.nan)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_rollback_restores_weights_and_state_and_halves_the_rate(monkeypatch, kind):
    monkeypatch.setattr("library.training.guard.SNAPSHOT_EVERY", 2)
    scene = Scene(mode="rollback", patience=2, kind=kind)
    values = []
    for _ in range(4):
        scene.update()
        values.append(scene.values())
    for _ in range(2):
        scene.update(bad=math.nan)
    scene.guard.settle()
    assert any(same(scene.values(), kept) for kept in values)
    assert scene.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    scene.schedule.step()
    assert scene.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_weights_that_went_bad_are_taken_back_in_any_mode(caplog):
    scene = Scene()
    scene.update()
    with torch.no_grad():
        scene.network["up"][1, 1] = math.nan
    scene.update(bad=math.nan, loss=math.nan)
    assert weights_are_finite(scene.network)
    assert "the weights themselves" in caplog.text


def test_clipping_gives_what_torch_gives():
    scene, other = Scene(), Scene()
    for one in (scene, other):
        for parameter in one.network.values():
            parameter.grad = torch.full_like(parameter, 2.0)
    parameters, norms = gradient_norms(scene.network.parameters())
    total = clip(parameters, norms, 1.0)
    assert torch.equal(total, torch.nn.utils.clip_grad_norm_(other.network.parameters(), 1.0))
    assert same([p.grad for p in scene.network.values()], [p.grad for p in other.network.values()])


class InFp16:
    """As much of accelerate as `Optimization` asks for, with a gradient scaler."""

    num_processes, is_main_process = 1, True

    def __init__(self, optimizer):
        Accelerator(cpu=True)  # whose state the wrapped optimizer needs
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        self.optimizer = AcceleratedOptimizer(optimizer, device_placement=False, scaler=self.scaler)

    @property
    def optimizer_step_was_skipped(self):
        return self.optimizer.step_was_skipped

    def unscale_gradients(self, optimizer):
        self.scaler.unscale_(optimizer.optimizer)


    def optimization(self, scene) -> Optimization:
        return Optimization(
            built=SimpleNamespace(optimizer=scene.optimizer), optimizer=self.optimizer, lr_scheduler=scene.schedule, rate_names=None,
            network=scene.network, hooks=SimpleNamespace(gradients_ready=lambda: None, weights_changed=lambda: None),
            trainable=list(scene.network.values()), max_grad_norm=1.0, accelerator=self,
            guard=NanGuard(GuardSettings(), scene.network, scene.optimizer, scene.schedule, self.scaler),
        )  # fmt: skip


def three_updates_in_fp16(scene, *, second_factor=1.0, second_loss=0.5):
    """Three updates; the gradients of the second are `second_factor` times the others. The guard, the scaler, values and `made` of each."""
    accelerator = InFp16(scene.optimizer)
    optimization = accelerator.optimization(scene)
    values, made = [], []
    for step, (factor, loss) in enumerate(((1.0, 0.5), (second_factor, second_loss), (1.0, 0.5)), start=1):
        accelerator.scaler.scale(sum(parameter.sum() for parameter in scene.network.values()) * factor).backward()
        optimization.guard.note(micro_step(loss, 0.0))
        made.append(optimization.update(step).made)
        values.append(scene.values())
    return optimization.guard, accelerator.scaler, values, made


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_that_the_gradient_scaler_forbids_changes_nothing_and_the_schedule_waits(kind, caplog):
    scene = Scene(kind=kind)
    guard, scaler, values, made = three_updates_in_fp16(scene, second_factor=math.inf)
    assert made == [True, False, True]
    assert same(values[0], values[1]) and not same(values[1], values[2])
    assert scene.schedule.last_epoch == 2 and scaler.get_scale() == 4.0
    assert guard.skipped == 0 and "left out" not in caplog.text


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_bad_loss_whose_gradients_are_finite_makes_no_step_in_fp16_either(kind, caplog):
    scene = Scene(kind=kind)
    guard, _, values, made = three_updates_in_fp16(scene, second_loss=math.inf)
    assert made == [True, False, True]
    assert same(values[0], values[1]) and not same(values[1], values[2])
    assert scene.schedule.last_epoch == 2
    assert guard.skipped == 1 and "step 2: update left out, NaN or infinite values in loss" in caplog.text


def test_norms_of_fp16_gradients_may_exceed_what_fp16_holds():
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    parameter.grad = torch.full_like(parameter, 6e4)
    assert gradient_norms([parameter])[1].tolist() == [pytest.approx(1.2e5, rel=1e-3)]
