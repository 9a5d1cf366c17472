"""Metadata of files that tools write: what the file is, and which files it came from."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from library.models.kinds import SD2, SDXL
from library.models.spec_facts import sd_facts, sdxl_facts, whole_model
from library.saving.commit import program_commit
from library.saving.modelspec import ModelFacts, modelspec_metadata
from networks.files.adapter_file import AdapterFile

SDXL_VERSION = "sdxl_base_v1-0"


def common_value(values: Iterable, spell=str) -> str:
    """The one value that all have, or the word `Dynamic`."""
    distinct = set(values)
    return spell(distinct.pop()) if len(distinct) == 1 else "Dynamic"


def network_metadata(
    dim: str, alpha: str, *, network_args: Mapping[str, object] | None = None, v2: str | None = None, base: str | None = None
) -> dict[str, str]:
    """The keys without which a LoRA cannot be used again. v2, base: left out if not known."""
    found = {"ss_network_module": "networks.lora", "ss_network_dim": dim, "ss_network_alpha": alpha}
    if v2 is not None:
        found["ss_v2"] = v2
    if base is not None:
        found["ss_base_model_version"] = base
    if network_args is not None:
        found["ss_network_args"] = json.dumps(dict(network_args))
    return found


def first_known(files: Sequence[AdapterFile], key: str) -> str | None:
    """The value of the first file that has the key."""
    return next((file.metadata[key] for file in files if key in file.metadata), None)


def adapter_spec(files: Sequence[AdapterFile], save_to: str) -> dict[str, str]:
    """modelspec.* of an adapter made from others."""
    v2 = first_known(files, "ss_v2") == "True"
    version = first_known(files, "ss_base_model_version") or ""
    sdxl = version.startswith("sdxl") or any(file.sdxl for file in files)
    v_prediction = version.endswith("_v") or any(file.metadata.get("modelspec.prediction_type") == "v" for file in files)
    facts = sdxl_facts(v_parameterization=v_prediction) if sdxl else sd_facts(v2=v2, v_parameterization=v_prediction)
    return spec(facts, save_to, merged_from(files))


def model_spec(kind: str, save_to: str, sources: Sequence, *, v_parameterization: bool = False) -> dict[str, str]:
    """modelspec.* of a whole model of this kind (library.models.kinds). sources: opened files with stem and metadata."""
    return spec(whole_model(facts_of(kind, v_parameterization)), save_to, merged_from(sources))


def facts_of(kind: str, v_parameterization: bool) -> ModelFacts:
    if kind == SDXL:
        return sdxl_facts(v_parameterization=v_parameterization)
    return sd_facts(v2=kind == SD2, v_parameterization=v_parameterization)


def spec(facts: ModelFacts, save_to: str, sources: str | None) -> dict[str, str]:
    now = time.time()
    found = modelspec_metadata({"output_name": Path(save_to).stem}, facts, saved_at=now, commit=program_commit())
    return found | ({"modelspec.merged_from": sources} if sources else {})


def merged_from(sources: Sequence) -> str:
    """Titles, or names where there is none, of the files that went into another."""
    return ", ".join(source.metadata.get("modelspec.title") or source.stem for source in sources)
