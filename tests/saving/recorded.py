"""Recorded runs of sd-scripts: the options of each and the metadata of the network it saved (recorded_metadata.json).

Each run is written as its differences from the first one, `a_plain`; None stands for a key that is not there.
"""

import json
from pathlib import Path
from types import SimpleNamespace

from library.data.subsets import DatasetSettings, Subset
from library.saving.modelspec import ModelFacts

CONTENT = json.loads((Path(__file__).parent / "recorded_metadata.json").read_text(encoding="utf-8"))
NAMES = list(CONTENT)
NOT_RECORDED = {
    "modelspec.date", "modelspec.implementation_version", "ss_new_sd_model_hash", "ss_sd_model_hash", "ss_sd_model_name",
    "ss_sd_scripts_commit_hash", "ss_session_id", "ss_training_finished_at", "ss_training_started_at", "sshs_legacy_hash",
    "sshs_model_hash",
}  # fmt: skip
"""Keys whose values change from run to run or depend on local names: only their presence is compared."""


def run(name: str) -> SimpleNamespace:
    """options, metadata, unrecorded_keys, facts, settings (one per data set) of a recorded run."""
    first, chosen = CONTENT["a_plain"], CONTENT[name]
    whole = {part: _changed(first[part], chosen.get(part, {})) for part in ("options", "metadata", "facts")}
    whole["metadata"] = {key: value for key, value in whole["metadata"].items() if value is not None}
    whole["datasets"] = chosen.get("datasets", first["datasets"])
    return SimpleNamespace(name=name, **whole)


def _changed(first: dict, changes: dict) -> dict:
    return first if first is changes else first | changes


def datasets(recorded: SimpleNamespace) -> list[SimpleNamespace]:
    """Stand-ins for the data sets of the run, with the counts and tags the saved file tells of."""
    if "ss_datasets" in recorded.metadata:
        return [_from_description(told) for told in json.loads(recorded.metadata["ss_datasets"])]
    (told,) = recorded.datasets
    tags = json.loads(recorded.metadata.get("ss_tag_frequency", "{}"))
    subsets = []
    for key, is_reg in (("ss_dataset_dirs", False), ("ss_reg_dataset_dirs", True)):
        for name, counts in json.loads(recorded.metadata.get(key, "{}")).items():
            place = {"metadata_file": f"somewhere/{name}"} if name.endswith(".json") else {"image_dir": f"somewhere/{name}"}
            subsets.append(
                Subset(**place, is_reg=is_reg, num_repeats=counts["n_repeats"], img_count=counts["img_count"], tag_frequency=tags[name])
            )
    settings = DatasetSettings(
        subsets=subsets,
        resolution=tuple(told["resolution"]),
        batch_size=told["batch_size"],
        enable_bucket=told["enable_bucket"],
        min_bucket_reso=told["min_bucket_reso"] or 256,
        max_bucket_reso=told["max_bucket_reso"] or 1024,
        bucket_no_upscale=bool(told["no_upscale"]),
    )
    return [_dataset(settings, json.loads(recorded.metadata.get("ss_bucket_info", "null")), told)]


def _from_description(told: dict) -> SimpleNamespace:
    subsets = []
    for described in told["subsets"]:
        described = dict(described, image_dir=f"somewhere/{described['image_dir']}")
        subsets.append(Subset(**described, tag_frequency=told["tag_frequency"][Path(described["image_dir"]).name]))
    settings = DatasetSettings(
        subsets=subsets,
        resolution=tuple(told["resolution"]),
        batch_size=told["batch_size_per_device"],
        enable_bucket=told["enable_bucket"],
        min_bucket_reso=told["min_bucket_reso"],
        max_bucket_reso=told["max_bucket_reso"],
        resize_interpolation=told["resize_interpolation"],
    )
    return _dataset(settings, told["bucket_info"], told)


def _dataset(settings: DatasetSettings, bucket_info: dict | None, told: dict) -> SimpleNamespace:
    return SimpleNamespace(
        settings=settings,
        subsets=settings.subsets,
        bucket_info=bucket_info,
        num_train_images=told["num_train_images"],
        num_reg_images=told["num_reg_images"],
    )


def model_facts(recorded: SimpleNamespace) -> ModelFacts:
    metadata, v_parameterization = recorded.metadata, recorded.options["v_parameterization"]
    sdxl = metadata["ss_base_model_version"].startswith("sdxl")
    return ModelFacts(
        architecture=metadata["modelspec.architecture"],
        implementation=metadata["modelspec.implementation"],
        prediction_type="v_prediction" if v_parameterization else "epsilon",
        resolution=(1024, 1024) if sdxl else (512, 512),
    )
