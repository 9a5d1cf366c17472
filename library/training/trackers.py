"""What a run tells while it goes: TensorBoard / wandb records under the reference's tags, and the progress bar.

Values of a step are sent to the host when it is queued and read one step late, so the report never makes the GPU wait.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from library.console import Patient, progress_bar
from library.files import room_left
from library.strangers import strangers_code
from library.training.host_copies import HostCopy
from library.training.loss_average import LossAverage
from library.training.loss_spikes import LossSpikes
from library.training.step import MicroStep

logger = logging.getLogger(__name__)

TRACKER_NAME = "network_train"
SHOWN = {"max_norm/keys_scaled": "Keys Scaled", "norm/avg_key_norm": "Average key norm"}  # beside the loss, on the progress bar
SECRETS = ("wandb_api_key", "huggingface_token")
PATHS = (
    "pretrained_model_name_or_path",
    "vae",
    "tokenizer_cache_dir",
    "train_data_dir",
    "conditioning_data_dir",
    "reg_data_dir",
    "output_dir",
    "logging_dir",
    "base_weights",
    "config_file",
    "console_log_file",
    "dataset_config",
    "in_json",
    "log_tracker_config",
    "lr_scheduler_preview",
    "metadata_thumbnail",
    "network_weights",
    "resume",
    "sample_prompts",
)


def start_trackers(
    accelerator: Accelerator,
    *,
    name: str | None,
    wandb_run_name: str | None,
    wandb_api_key: str | None,
    init_arguments: dict[str, Any] | None,
    config: dict[str, Any] | None,
) -> None:
    """Opens the trackers on the main process. init_arguments (from --log_tracker_config) replace all other init arguments."""
    if not accelerator.is_main_process or not accelerator.log_with:
        return
    kinds = [str(kind) for kind in accelerator.log_with]
    own_errors = ()
    if "wandb" in kinds:
        import wandb

        own_errors = (wandb.errors.Error,)
        _ready_wandb(wandb_api_key, Path(accelerator.project_dir).parent if accelerator.project_dir else None)
    if accelerator.project_dir:
        Path(accelerator.project_dir).mkdir(parents=True, exist_ok=True)
    init = {"wandb": {"name": wandb_run_name}} if wandb_run_name else {}
    advice = "Check --log_with, --log_tracker_config and, for wandb, its key (WANDB_API_KEY)"
    with strangers_code(f"starting {' and '.join(kinds)}", advice, own_errors):
        accelerator.init_trackers(name or TRACKER_NAME, config=config, init_kwargs=init_arguments or init)
    if "wandb" in kinds:
        for metric in ("epoch", "global_step", "val_step"):
            wandb.define_metric(metric, hidden=True)


def end_trackers(accelerator: Accelerator) -> None:
    """Writes what they still hold and closes them; a log that cannot be written is told."""
    try:
        accelerator.end_training()
    except OSError as fault:
        logger.error("the end of the log could not be written: %s; %s", fault, room_left(accelerator.project_dir or "."))


def _ready_wandb(api_key: str | None, folder: Path | None) -> None:
    """Logs in, and keeps wandb's records in --logging_dir; without one they lie in the current folder."""
    import wandb

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["WANDB_DIR"] = str(folder)
    if api_key:
        wandb.login(key=api_key)


@contextmanager
def bars_closed() -> Iterator[None]:
    """However the body ends, what is written afterwards begins on a line of its own and not behind a progress bar."""
    try:
        yield
    finally:
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def logged_config(options: dict[str, Any]) -> dict[str, Any]:
    """The options a tracker may store (--log_config): no secrets, no paths, plain values."""
    plain = (str, bool, int, float, type(None))
    kept = {key: value for key, value in options.items() if key not in SECRETS and key not in PATHS and not _holds_a_path(value)}
    return {key: value if isinstance(value, plain) else str(value) for key, value in kept.items()}


def _holds_a_path(value: Any) -> bool:
    return any(isinstance(item, str) and os.path.isabs(item) for item in (value if isinstance(value, list) else [value]))


@dataclass(frozen=True)
class RateNames:
    """How the learning rates are called in the logs.

    descriptions: one per optimizer group, None for modules that give none. with_d: also log d * rate (D-Adaptation, Prodigy).
    """

    descriptions: Sequence[str] | None
    unet_only: bool
    with_d: bool
    with_d_of_first: bool = False

    def record(self, rates: Sequence[float], groups: Sequence[dict]) -> dict[str, Any]:
        """Tag -> value. The names without descriptions are always added, as logs of earlier runs have them."""
        generic = [f"group{number}" for number in range(len(rates))]
        if not self.unet_only:
            generic[0] = "textencoder"
        if self.descriptions is not None:
            named = list(self.descriptions)
        elif len(rates) > 2:
            named = generic
        else:
            named = ["unet"] if self.unet_only else ["textencoder", "unet"]
        values: dict[str, Any] = {}
        for names in (named, generic):
            for name, rate, group in zip(names, rates, groups, strict=False):
                values[f"lr/{name}"] = rate
                if self.with_d and (name != "textencoder" or names is named):
                    values[f"lr/d*lr/{name}"] = (group["d"], group["lr"])
        if self.with_d_of_first:
            values["lr/d*lr"] = (groups[0]["d"], groups[0]["lr"])
        return values


@dataclass
class _Pending:
    """What is known of one micro step. What were tensors among `values` is on its way to the host."""

    step: MicroStep
    loss: HostCopy
    bad_latents: HostCopy | None
    place: int
    tracker_step: int
    values: dict[str, Any] = field(default_factory=dict)


class Reporter:
    """Keeps the record of one micro step until the next one is queued, then reads, averages, shows and logs it."""

    def __init__(
        self,
        accelerator: Accelerator,
        total_steps: int,
        steps_done: int = 0,
        losses: LossAverage | None = None,
        spikes: LossSpikes | None = None,
    ):
        """steps_done, losses, spikes: of a run that goes on, how far it is and what its statistics remember."""
        self._accelerator = accelerator
        self._pending: _Pending | None = None
        self.losses = LossAverage() if losses is None else losses
        disable = not accelerator.is_local_main_process
        self.bar = progress_bar(total=total_steps, initial=steps_done, smoothing=0, disable=disable, desc="steps")
        self._spikes = LossSpikes() if spikes is None else spikes
        self._failed: set[str] = set()
        self.on_bad_latents: Callable[[MicroStep], None] = _tell_bad_latents

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Writes the epoch's number above the bar; epoch counts from 1."""
        if not self.bar.disable:
            self.bar.write(f"\nepoch {epoch}/{num_epochs}\n", file=Patient("stdout"))

    def note(self, step: MicroStep, *, place: int, global_step: int, rates: dict[str, Any], norms: Sequence[float | Tensor] | None) -> None:
        """Queues one micro step. place: its index in the epoch. norms: (scaled, mean, largest) of --scale_weight_norms."""
        self.flush()
        values = dict(rates)
        if norms is not None:
            values |= dict(zip(("max_norm/keys_scaled", "norm/avg_key_norm", "max_norm/max_key_norm"), norms, strict=True))
        values = {name: _sent(value) for name, value in values.items()}
        bad_latents = None if step.bad_latents is None else HostCopy(step.bad_latents)
        self._pending = _Pending(step, HostCopy(step.loss), bad_latents, place, global_step, values)

    def flush(self) -> None:
        """Reads and logs what is queued; does nothing if nothing is."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, loss = pending.step, float(pending.loss.read())
        self.losses.add(epoch=step.epoch - 1, place=pending.place, loss=loss)
        spike = self._spikes.height(loss) if math.isfinite(loss) else None
        if spike is not None:
            _tell_spike(step, loss, spike)
        if pending.bad_latents is not None and bool(pending.bad_latents.read()):
            self.on_bad_latents(step)
        values = {name: _number(value) for name, value in pending.values.items()}
        shown = {text: values[name] for name, text in SHOWN.items() if name in values}
        self.bar.set_postfix(avr_loss=self.losses.average, **shown)
        values = {"loss/current": loss, "loss/average": self.losses.average, **values}
        self.log(values, pending.tracker_step, pending.tracker_step, step.epoch)

    def settled_losses(self) -> LossAverage:
        """The loss average with the last step in it."""
        self.flush()
        return self.losses

    def close(self) -> None:
        """Logs what is queued and ends the bar."""
        self.flush()
        self.bar.close()

    def end_epoch(self, epoch: int, global_step: int) -> None:
        """Logs the epoch's average; epoch counts from 1."""
        self.flush()
        self.log({"loss/epoch_average": self.losses.average}, epoch, global_step, epoch)

    def log(self, values: dict[str, Any], tracker_step: int, global_step: int, epoch: int) -> None:
        """Sends one record to every tracker; wandb gets the counters as values and no explicit step.

        A log that cannot be written, as on a full disk, is told once and then left alone: training goes on.
        """
        for tracker in self._accelerator.trackers:
            if tracker.name in self._failed:
                continue
            try:
                if tracker.name == "wandb":
                    tracker.log({**values, "global_step": global_step, "epoch": epoch})
                else:
                    tracker.log(values, step=tracker_step)
            except OSError as fault:
                self._failed.add(tracker.name)
                place = room_left(self._accelerator.project_dir or ".")
                logger.error("%s can log no more: %s; %s; training goes on", tracker.name, fault, place)


def _sent(value: Any) -> Any:
    """A value to be logged, its tensors sent to the host."""
    if isinstance(value, tuple):
        return tuple(_sent(part) for part in value)
    return HostCopy(value) if isinstance(value, Tensor) else value


def _number(value: Any) -> float:
    """Plain number of what `_sent` gave; a pair (d, rate) is their product."""
    if isinstance(value, tuple):
        return _number(value[0]) * _number(value[1])
    return value.read().item() if isinstance(value, HostCopy) else value


def _tell_spike(step: MicroStep, loss: float, height: float) -> None:
    names = ", ".join(str(key) for key in step.batch.image_keys)
    place, timesteps = step.global_step + 1, step.timesteps.tolist()
    logger.warning("step %d: the loss %.4g stands %.0f deviations out: %s, timesteps %s", place, loss, height, names, timesteps)


def _tell_bad_latents(step: MicroStep) -> None:
    names = ", ".join(str(key) for key in step.batch.image_keys)
    logger.warning("the VAE gave NaN or infinite latents, replaced by zeros: %s. Try --no_half_vae", names)
