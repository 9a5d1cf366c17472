"""Compares a recording of ours with a golden one and tells every difference in the order in which it arose.

Both are plain dicts of the form that tests/golden/README.md describes. Data, names and counts must be equal; numbers may
differ by the rounding that was measured between machines (`Limits`).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

EXACT_DATASET = (
    "seed", "num_train_images", "num_reg_images", "batch_size", "n_batches", "resolution", "enable_bucket", "no_upscale", "buckets",
)  # fmt: skip
EXACT_BATCH = (
    "dataset", "index", "bucket", "images", "captions", "flipped", "original_sizes_hw", "crop_top_lefts", "target_sizes_hw",
    "dataset_epoch", "dataset_step", "ids_shape", "timesteps",
)  # fmt: skip
EXACT_GROUP = ("n_params", "numel")
SETTINGS_OF_GROUP = (
    "lr", "betas", "eps", "weight_decay", "momentum", "nesterov", "alpha", "amsgrad", "decouple", "d0", "d_coef", "growth_rate",
    "use_bias_correction", "safeguard_warmup", "clip_threshold", "decay_rate", "scale_parameter", "relative_step", "warmup_init",
    "warmup_steps", "r", "weight_lr_power",
)  # fmt: skip
LOCAL_METADATA = {"ss_sd_model_name", "modelspec.implementation_version"}
OF_THE_STEP = ("loss", "timesteps", "latents", "noise", "noisy")
ROUNDING_ONLY = re.compile("time_emb_proj|emb_layers")
ROUNDING_ONLY_FLOOR = 3e-3


@dataclass(frozen=True)
class Limits:
    """Relative limits, but `statistics` (absolute, relative above 1). steps_compared: micro steps whose results count, None is all.

    leave_out: tensors of the saved network that are not compared, a pattern for their names. trainable_params: their number counts.
    """

    early_loss: float = 1e-5
    late_loss: float = 1e-3
    first_grad_norm: float = 1e-4
    grad_norm: float = 1e-3
    net_l2: float = 1e-4
    d: float = 1e-3
    learning_rate: float = 1e-6
    tensor_norm: float = 1e-3
    statistics: float = 1e-5
    steps_compared: int | None = None
    leave_out: str | None = None
    trainable_params: bool = True


def limits_for(recording: dict, *, other_decoder: bool) -> Limits:
    """The fair limits of one run. other_decoder: images are decoded or resized by other libraries than the reference had.

    Rates so high or optimizers so blunt that rounding grows get 1e-2 on tensor norms. Four runs amplify rounding further:
    two whose lowest U-Net level is 1x1 pixel, one D-Adaptation run with huge weights, and those in which AdaFactor or LyCORIS
    moves tensors whose gradient is zero but for rounding. `d_scale_norms` and `s_scale_norms` train at a rate of 0.05, and
    `j_block_dims` has one tensor with a gradient near rounding (1.3e-3 off, as our scale is multiplied in at another place).
    In `o_lora_fa` the reference lets gradients of its frozen matrices add up for ever and counts them, and these matrices, as
    trained; losses and the saved file must still agree. `s_full` trains biases that a normalisation takes out again.
    """
    limits = Limits(statistics=1e-4 if other_decoder else 1e-5)
    if "--scale_weight_norms" in recording["args"] or "lion" in recording.get("optimizer", "").lower():
        limits = replace(limits, tensor_norm=1e-2)
    special = {
        "a_reso64_b4": {"steps_compared": 4, "early_loss": 3e-4, "grad_norm": 0.5},
        "a_no_bucket_random_crop_reso64": {"steps_compared": 4, "early_loss": 3e-4, "grad_norm": 0.5},
        "d_scale_norms": {"early_loss": 1e-4},
        "j_block_dims": {"tensor_norm": 2e-3},
        "h_dadaptadam": {"tensor_norm": 3e-2, "grad_norm": 1e-2},
        "o_lora_fa": {"grad_norm": math.inf, "trainable_params": False},
        "s_scale_norms": {"leave_out": r"(down_blocks_0|up_blocks_3)_resnets_._time_emb_proj"},
        "s_diag_oft": {"leave_out": "up_blocks_3_resnets_1_time_emb_proj"},
        "s_full": {"leave_out": r"(k_proj|conv[12]|conv_shortcut|up_blocks_3_attentions_2_.*)\.diff_b"},
        "r_typical": {"net_l2": 1e-3, "leave_out": r"(input_blocks_[12]|output_blocks_[678])_0_emb_layers_1"},
    }
    return replace(limits, **special.get(recording["name"], {}))


def differences(recorded: dict, made: dict, limits: Limits) -> list[str]:
    """Every difference as a sentence, the earliest first."""
    found = [*_setup(recorded, made, limits), *_training(recorded, made, limits), *_files(recorded, made, limits)]
    if limits.steps_compared is None:
        found += _saved_network(recorded, made, limits)
    else:
        found += _metadata(recorded, made)
    return found


def _setup(recorded: dict, made: dict, limits: Limits) -> Iterator[str]:
    yield from _count("data sets", recorded["datasets"], made["datasets"])
    for number, (theirs, ours) in enumerate(zip(recorded["datasets"], made["datasets"], strict=False)):
        place = f"data set {number}"
        yield from _exact(place, theirs, ours, EXACT_DATASET)
        yield from _exact_value(f"{place}: order of images", list(theirs["images"]), list(ours["images"]))
        for name in theirs["images"].keys() & ours["images"].keys():
            yield from _exact(f"{place}, image {name}", theirs["images"][name], ours["images"][name])
    yield from _exact("run", recorded["facts"], made["facts"], made["facts"])
    if limits.trainable_params:
        yield from _exact_value("trainable parameters", recorded["trainable_params"], made["trainable_params"])
    yield from _count("parameter groups", recorded["param_groups"], made["param_groups"])
    for number, (theirs, ours) in enumerate(zip(recorded["param_groups"], made["param_groups"], strict=False)):
        place = f"parameter group {number}"
        yield from _exact(place, theirs, ours, EXACT_GROUP)
        for key in SETTINGS_OF_GROUP:
            if theirs.get(key) is not None and key in ours:
                yield from _near(f"{place}: {key}", theirs[key], ours[key], relative=1e-8)


def _training(recorded: dict, made: dict, limits: Limits) -> Iterator[str]:
    updates = {update["after_micro_step"]: update for update in made["optimizer_steps"]}
    recorded_updates = {update["after_micro_step"]: update for update in recorded["optimizer_steps"]}
    max_norms = dict(enumerate(made["max_norm_per_micro_step"], 1))
    weighted = "--weighted_captions" in recorded["args"]  # then the recorded counts are of other ids than those trained on
    steps = with_their_batches(recorded["steps"], made.get("thrown_away", 0))
    for number, (theirs, ours) in enumerate(zip(steps, made["steps"], strict=False), 1):
        in_limits = limits.steps_compared is None or number <= limits.steps_compared
        yield from _batch(f"step {number}", theirs, ours, limits)
        if "n_tokens" in theirs and not weighted:
            yield from _exact(f"step {number}", theirs, ours, ("n_tokens",))
        if in_limits:
            limit = limits.early_loss if number <= 10 else limits.late_loss
            yield from _near(f"step {number}: loss", theirs["loss"], ours["loss"], relative=limit)
        if number in recorded_updates:
            expected = _with_max_norm(recorded, recorded_updates[number])
            yield from _update(expected, updates.get(number), max_norms.get(number), limits, in_limits)
    yield from _exact_value("validation: timesteps", recorded.get("val_timesteps", []), made.get("val_timesteps", []))
    losses = recorded.get("val_loss", []), made.get("val_loss", [])
    yield from _near("validation: losses", *losses, relative=limits.late_loss if len(recorded["steps"]) > 10 else limits.early_loss)
    yield from _count("micro steps", recorded["steps"], made["steps"])
    yield from _exact_value("updates happen after the micro steps", list(recorded_updates), list(updates))


def with_their_batches(steps: list[dict], thrown_away: int) -> list[dict]:
    """The recorded steps, each with the batch that it was made of.

    Recordings note batches in the order in which the data set built them. Where a run skips into an epoch, the first is thrown away,
    so step k has batch k + 1; what the last step had was not noted.
    """
    if not thrown_away:
        return steps
    batches = steps[thrown_away:] + [{}] * thrown_away
    return [
        {**batch, **{key: step[key] for key in OF_THE_STEP if key in step}} for step, batch in zip(steps, batches, strict=True)
    ]


def _batch(place: str, theirs: dict, ours: dict, limits: Limits) -> Iterator[str]:
    yield from _exact(place, theirs, ours, [key for key in EXACT_BATCH if key in theirs])
    for key in ("loss_weights",) if "loss_weights" in theirs else ():
        yield from _near(f"{place}: {key}", theirs[key], ours[key], relative=1e-6)
    for key in ("image_stat", "latent_stat", "alpha_mask_mean", "latents", "noise", "noisy"):
        if key in theirs:
            yield from _near(f"{place}: {key}", theirs[key], ours.get(key), relative=limits.statistics, floor=limits.statistics)


def _with_max_norm(recorded: dict, update: dict) -> dict:
    """The recorded update, with what --scale_weight_norms did in its micro step."""
    per_micro_step = recorded.get("max_norm_per_micro_step")
    if not per_micro_step:
        return update
    scaled, mean, largest = per_micro_step[update["after_micro_step"] - 1]
    return {**update, "max_norm": {"keys_scaled": scaled, "mean": mean, "max": largest}}


def _update(theirs: dict, ours: dict | None, max_norm: dict | None, limits: Limits, in_limits: bool) -> Iterator[str]:
    place = f"update {theirs['step']} (after step {theirs['after_micro_step']})"
    if ours is None:
        yield f"{place}: no update happened here"
        return
    yield from _exact(place, theirs, ours, ("step",))
    yield from _near(f"{place}: lr", theirs["lr"], ours["lr"], relative=limits.learning_rate)
    if not in_limits:
        return
    limit = limits.first_grad_norm if theirs["step"] == 1 else limits.grad_norm
    for key, relative in (("grad_norm", limit), ("d", limits.d), ("net_l2", limits.net_l2)):
        if key in theirs:
            yield from _near(f"{place}: {key}", theirs[key], ours.get(key), relative=relative)
    if "max_norm" in theirs:
        yield from _near(f"{place}: max_norm", theirs["max_norm"], max_norm, relative=limits.net_l2, floor=1e-6)


def _files(recorded: dict, made: dict, limits: Limits) -> Iterator[str]:
    yield from _same_names("file", recorded["files_saved"], made["files_saved"])
    for name in recorded["safetensors"].keys() & made["safetensors"].keys():
        yield from _exact(name, recorded["safetensors"][name], made["safetensors"][name])
    yield from _same_names("cache file", recorded["npz_written"], made["npz_written"])
    for name, arrays in recorded.get("npz_arrays", {}).items():
        yield from _near(name, arrays, made["npz_arrays"].get(name), relative=limits.statistics, floor=limits.statistics)


def _saved_network(recorded: dict, made: dict, limits: Limits) -> Iterator[str]:
    if not recorded.get("final"):
        return
    yield from _metadata(recorded, made)
    theirs, ours = recorded["final"]["tensors"], made.get("final", {}).get("tensors", {})
    yield from _same_names("tensor", theirs, ours)
    for name in [name for name in theirs if name in ours]:
        (dtype, shape, norm), (our_dtype, our_shape, our_norm) = theirs[name][:3], ours[name][:3]
        yield from _exact_value(f"tensor {name}: dtype and shape", [dtype, shape], [our_dtype, our_shape])
        if limits.leave_out and re.search(limits.leave_out, name):
            continue
        floor = ROUNDING_ONLY_FLOOR if ROUNDING_ONLY.search(name) else 1e-7
        yield from _near(f"tensor {name}: norm", norm, our_norm, relative=limits.tensor_norm, floor=floor)


def _metadata(recorded: dict, made: dict) -> Iterator[str]:
    if not recorded.get("final"):
        return
    theirs, ours = recorded["final"], made.get("final", {"metadata": {}, "metadata_keys": []})
    yield from _same_names("metadata key", theirs["metadata_keys"], ours["metadata_keys"])
    for key, value in theirs["metadata"].items():
        if key in ours["metadata"] and key not in LOCAL_METADATA:
            yield from _exact_value(f"metadata {key}", value, ours["metadata"][key])


def _exact(place: str, theirs: dict, ours: dict, keys=None) -> Iterator[str]:
    for key in theirs if keys is None else keys:
        yield from _exact_value(f"{place}: {key}", theirs.get(key), ours.get(key))


def _exact_value(what: str, theirs, ours) -> Iterator[str]:
    if theirs != ours:
        yield f"{what}: ours {_short(ours)}, recorded {_short(theirs)}"


def _count(what: str, theirs: list, ours: list) -> Iterator[str]:
    yield from _exact_value(f"number of {what}", len(theirs), len(ours))


def _same_names(what: str, theirs, ours) -> Iterator[str]:
    yield from (f"missing {what} {name}" for name in sorted(set(theirs) - set(ours)))
    yield from (f"unexpected {what} {name}" for name in sorted(set(ours) - set(theirs)))


def _near(what: str, theirs, ours, *, relative: float, floor: float = 0.0) -> Iterator[str]:
    """Numbers, or dicts and lists of them, may differ by `relative` of the recorded value or by `floor`."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        yield from _same_names(f"entry of {what}:", theirs, ours)
        for key in [key for key in theirs if key in ours]:
            yield from _near(f"{what}: {key}", theirs[key], ours[key], relative=relative, floor=floor)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, pair in enumerate(zip(theirs, ours, strict=True)):
            yield from _near(f"{what}[{number}]", *pair, relative=relative, floor=floor)
    elif isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        gap = abs(ours - theirs)
        if theirs != ours and not gap <= max(relative * abs(theirs), floor):
            share = f"{gap / abs(theirs):.1e} of it" if theirs else f"{gap:.1e}"
            yield f"{what}: ours {ours:.9g}, recorded {theirs:.9g} (apart by {share}, limit {relative:.0e})"
    else:
        yield from _exact_value(what, theirs, ours)


def _short(value, length: int = 160) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
