"""Measures a training run of ours in the form of the golden recordings.

`Recorder(run)` hangs itself on the run's watchers between `prepare` and `train`; `recording(...)` collects everything at the end.
Statistics of a tensor are its mean, unbiased standard deviation, first four values and element count.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

END_OF_TEXT = 49407


def statistics(values) -> dict:
    """Of a tensor or array of any shape; a single value has no deviation."""
    flat = torch.as_tensor(values).detach().cpu().double().flatten()
    deviation = flat.std().item() if len(flat) > 1 else 0.0
    return {"mean": flat.mean().item(), "std": deviation, "first": flat[:4].tolist(), "n": len(flat)}


def l2_norm(tensors) -> float:
    """Root of the sum of all squares, in double precision."""
    return sum(float(tensor.detach().double().pow(2).sum()) for tensor in tensors) ** 0.5


class Recorder:
    """Attaches to `run` (library.training.network_recipe.Run) when it is made."""

    def __init__(self, run):
        self.run = run
        self.steps: list[dict] = []
        self.updates: list[dict] = []
        self.max_norms: list[dict] = []
        self._net_l2 = float("nan")
        self._start = {
            "datasets": [dataset_facts(dataset) for dataset in run.train_data.datasets],
            "param_groups": [group_facts(group) for group in self._optimizer.param_groups],
            "trainable_params": sum(p.numel() for p in run.network.parameters() if p.requires_grad),
            "facts": {
                "num_train_images_x_repeats": run.train_data.num_train_images,
                "num_reg_images": run.train_data.num_reg_images,
                "total_optimization_steps": run.total_steps,
            },
        }
        self.validation: list[dict] = []
        run.watchers.append(self._watch_step)
        run.validation.watchers.append(lambda step: self.validation.append(step_facts(step)))
        run.update_watchers.append(self._watch_update)
        self._optimizer.register_step_post_hook(self._after_step)
        if hasattr(run.network, "apply_max_norm_regularization"):
            self._watch_norm_limits(run.network)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """The bare optimizer, without accelerate's wrapper."""
        return getattr(self.run.optimizer, "optimizer", self.run.optimizer)

    def _watch_norm_limits(self, network) -> None:
        limit = network.apply_max_norm_regularization

        def limit_and_note(*args, **kwargs):
            scaled, mean, largest = limit(*args, **kwargs)
            self.max_norms.append({"keys_scaled": float(scaled), "mean": float(mean), "max": float(largest)})
            return scaled, mean, largest

        network.apply_max_norm_regularization = limit_and_note

    def _after_step(self, optimizer, args, kwargs) -> None:
        self._net_l2 = l2_norm(self.run.network.parameters())

    def _watch_step(self, step) -> None:
        facts = batch_facts(step.batch, self.run.train_data.datasets) | step_facts(step) | token_facts(step.batch, self.run.family)
        self.steps.append({"micro_step": len(self.steps) + 1, **facts})

    def _watch_update(self, update) -> None:
        facts = {
            "step": len(self.updates) + 1,
            "after_micro_step": len(self.steps),
            "lr": [float(rate) for rate in update.learning_rates],
            "net_l2": self._net_l2,
        }
        if update.grad_norm is not None:
            facts["grad_norm"] = float(update.grad_norm)
        if "d" in self._optimizer.param_groups[0]:
            facts["d"] = [float(group["d"]) for group in self._optimizer.param_groups]
        self.updates.append(facts)

    def recording(self, out: Path, data: Path, final_file: str | None) -> dict:
        """Everything measured. final_file: the saved network whose tensors and metadata are read, a name below `out`."""
        saved = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        arrays = sorted(data.rglob("*.npz"))
        found = {
            "status": "ok",
            **self._start,
            "steps": self.steps,
            "optimizer_steps": self.updates,
            "max_norm_per_micro_step": self.max_norms,
            "val_loss": [step["loss"] for step in self.validation],
            "val_timesteps": [step["timesteps"] for step in self.validation],
            "thrown_away": 1 if self.run.start.batches_done else 0,
            "files_saved": saved,
            "safetensors": {name: network_facts(out / name) for name in saved if name.endswith(".safetensors") and "/" not in name},
            "npz_written": [path.relative_to(data).as_posix() for path in arrays],
            "npz_arrays": {path.relative_to(data).as_posix(): array_facts(path) for path in arrays},
        }
        if final_file and final_file in saved:
            found["final"] = saved_network(out / final_file)
        return found


def dataset_facts(dataset) -> dict:
    """Counts, buckets and images of an ImageDataset, images in the order of registration."""
    return {
        "seed": dataset.seed,
        "num_train_images": dataset.num_train_images,
        "num_reg_images": dataset.num_reg_images,
        "batch_size": dataset.settings.batch_size,
        "n_batches": len(dataset),
        "resolution": list(dataset.settings.resolution),
        "enable_bucket": dataset.settings.enable_bucket,
        "no_upscale": dataset.settings.bucket_no_upscale,
        "buckets": [{"resolution": list(bucket.resolution), "count": len(bucket.keys)} for bucket in dataset.buckets],
        "images": {
            record.path.name: {
                "size": list(record.size),
                "bucket": list(record.bucket),
                "resized": list(record.resized),
                "repeats": record.num_repeats,
                "is_reg": record.is_reg,
                "caption": record.caption,
            }
            for record in dataset.records.values()
        },
    }


def group_facts(group: dict) -> dict:
    """A parameter group: counts, the rate before any scheduler touched it, and all plain settings."""
    facts = {key: value for key, value in group.items() if isinstance(value, (bool, int, float, str, tuple, list)) and key != "params"}
    parameters = group["params"]
    rate = group.get("initial_lr", group["lr"])
    return {**facts, "n_params": len(parameters), "numel": sum(p.numel() for p in parameters), "lr": None if rate is None else float(rate)}


def batch_facts(batch, datasets) -> dict:
    """What the data set handed out: order, captions, sizes, pixels or latents, token counts."""
    records = datasets[batch.dataset_index].records
    facts = {
        "dataset": batch.dataset_index,
        "index": batch.batch_index,
        "bucket": list(batch.bucket),
        "images": [records[key].path.name for key in batch.image_keys],
        "captions": list(batch.captions),
        "flipped": [bool(flag) for flag in batch.flipped],
        "loss_weights": batch.loss_weights.tolist(),
        "dataset_epoch": batch.epoch,
        "dataset_step": batch.step,
    }
    for name in ("original_sizes_hw", "crop_top_lefts", "target_sizes_hw"):
        facts[name] = getattr(batch, name).tolist()
    if batch.images is not None:
        facts["image_stat"] = [statistics(image) for image in batch.images]
    if batch.latents is not None:
        facts["latent_stat"] = [statistics(latents) for latents in batch.latents]
    if batch.alpha_masks is not None:
        facts["alpha_mask_mean"] = [mask.double().mean().item() for mask in batch.alpha_masks]
    return facts


def token_facts(batch, family) -> dict:
    """Counts and shapes of the ids, or of those that the captions have whose text states were cached."""
    input_ids = family.tokenize(batch.captions) if batch.input_ids is None else batch.input_ids
    counts = [(ids != END_OF_TEXT).flatten(1).sum(1).tolist() for ids in input_ids]
    return {"n_tokens": counts, "ids_shape": [list(ids.shape) for ids in input_ids]}


def step_facts(step) -> dict:
    """What the forward pass drew and gave."""
    return {
        "loss": float(step.loss),
        "timesteps": step.timesteps.tolist(),
        "latents": statistics(step.latents),
        "noise": statistics(step.noise),
        "noisy": statistics(step.noisy_latents),
    }


def network_facts(path: Path) -> dict:
    """Of one saved network: key count, and the step and epoch its metadata tells."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        return {"n_keys": len(list(file.keys())), "ss_steps": metadata.get("ss_steps"), "ss_epoch": metadata.get("ss_epoch")}


def saved_network(path: Path) -> dict:
    """Metadata, and dtype, shape and L2 norm of every tensor."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors file is not a dict)
    table = {key: [str(t.dtype).removeprefix("torch."), list(t.shape), l2_norm([t])] for key, t in tensors.items()}
    return {"file": path.name, "metadata": metadata, "metadata_keys": sorted(metadata), "n_tensors": len(table), "tensors": table}


def array_facts(path: Path) -> dict:
    """Statistics of every array of numbers in a cache file; the line of text in which we note its source is left out."""
    with np.load(path) as arrays:
        return {name: statistics(arrays[name]) for name in arrays.files if arrays[name].dtype.kind != "U"}
