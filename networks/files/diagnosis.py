"""What an adapter file is, what is wrong with it, and which programs load it with what loss."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from networks.files.adapter_file import AdapterFile
from networks.files.algebra import delta, kind_of, low_rank
from networks.files.names import KOHYA_PREFIXES
from networks.files.of_weight import adds_nothing
from networks.files.strengths import IN, MID, OUT, block_slot
from networks.max_norm import product_norms

PRIVATE = (
    "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_datasets", "ss_tag_frequency", "ss_bucket_info", "ss_training_comment",
    "ss_sd_model_name", "ss_vae_name", "ss_output_name", "ss_session_id", "ss_training_started_at", "ss_training_finished_at",
)  # fmt: skip
"""Metadata that tell about the images, the folders and the person they came from."""
MEASURED = ("LoRA", "LoHa", "LoKr", "full", "DoRA")
NEEDED = {
    "LoRA": {"lora_down.weight", "lora_up.weight"}, "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "IA3": {"weight", "on_input"}, "GLoRA": {"a1.weight", "a2.weight", "b1.weight", "b2.weight"},
}  # fmt: skip
BAR = 30


@dataclass
class Diagnosis:
    """norms: module -> Frobenius norm of what it adds (a DoRA: before its magnitude), None where only the base model tells.

    problems: what is wrong, in words. bad, zero, broken: modules with NaN or infinity, that add nothing, or lack a tensor.
    """

    file: AdapterFile
    kinds: Counter = field(default_factory=Counter)
    ranks: Counter = field(default_factory=Counter)
    alphas: Counter = field(default_factory=Counter)
    dtypes: Counter = field(default_factory=Counter)
    norms: dict[str, float | None] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    without_alpha: int = 0
    input_axis: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def private(self) -> list[str]:
        return [key for key in PRIVATE if key in self.file.metadata]


@torch.no_grad()
def diagnose(file: AdapterFile) -> Diagnosis:
    """Reads every tensor once, one module at a time."""
    found = Diagnosis(file)
    for module, lazies in file.modules.items():
        _count(found, module, lazies)
        parts = file.read(module)
        kind = kind_of(parts)
        if module in found.broken:
            continue
        if not all(bool(tensor.isfinite().all()) for tensor in parts.values()):
            found.bad.append(module)
            continue
        magnitude = parts.get("dora_scale")
        found.input_axis |= magnitude is not None and magnitude.dim() > 1 and magnitude.shape[0] == 1
        norm = found.norms[module] = change_norm(module, parts) if kind in MEASURED else None
        if (norm == 0 and kind != "DoRA") or (norm is None and adds_nothing(parts)):
            found.zero.append(module)
    found.problems = list(_problems(found))
    return found


def _count(found: Diagnosis, module: str, lazies: Mapping) -> None:
    kind = kind_of(lazies)
    found.kinds[kind] += 1
    plain = "LoRA" if "lora_down.weight" in lazies or "lora_up.weight" in lazies else kind
    if kind == "unknown" or not NEEDED.get(plain, set()) <= set(lazies):
        found.broken.append(module)
    rank = {"lora_down.weight": 0, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0}
    for part, axis in rank.items():
        if part in lazies:
            found.ranks[lazies[part].shape[axis]] += 1
            break
    if "alpha" in lazies:
        found.alphas[float(lazies["alpha"].read())] += 1
    elif plain in ("LoRA", "LoHa", "LoKr"):
        found.without_alpha += 1
    found.dtypes.update(str(tensor.dtype).removeprefix("torch.") for part, tensor in lazies.items() if part != "alpha")


def change_norm(module: str, parts: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the weight change, without the magnitude of a DoRA."""
    parts = {part: tensor for part, tensor in parts.items() if part != "dora_scale"}
    product = low_rank(module, parts)
    if product is None:
        return float(delta(module, parts).norm())
    return abs(product.scale) * float(product_norms(product.down[None], product.up[None])[0])


def _problems(found: Diagnosis) -> Iterator[str]:
    for modules, what in (
        (found.broken, "lack a tensor or are of no known kind"),
        (found.bad, "hold NaN or infinity: images made with them are black or noise"),
        (found.zero, "add nothing: they were not trained, or their weight was 0"),
    ):
        if modules:
            yield f"{len(modules)} modules {what}: {_some(modules)}"
    if found.file.others:
        yield f"{len(found.file.others)} tensors belong to no adapter module: {_some(list(found.file.others))}"
    if len(found.dtypes) > 1:
        yield "number formats are mixed: " + ", ".join(f"{dtype} {count}x" for dtype, count in found.dtypes.most_common())
    if found.without_alpha:
        yield f"{found.without_alpha} modules have no alpha: programs take their rank for it"
    if found.private:
        yield f"metadata tell about the training images or folders: {_some(found.private)}"
    if found.kinds["DoRA"] and found.input_axis:
        yield "DoRA with magnitudes by input: PEFT and diffusers have no such thing"


def loaders(found: Diagnosis) -> dict[str, str]:
    """Program -> what it makes of the file."""
    kinds, kohya = set(found.kinds), all(name.startswith(KOHYA_PREFIXES) for name in found.file.names.values())
    plain = kinds <= {"LoRA"} and not any("lora_mid.weight" in parts for parts in found.file.modules.values())
    verdict = {"A1111": "loads it", "ComfyUI": "loads it", "diffusers": "loads it"}
    if not kohya:
        verdict["A1111"] = "does not find most layers: convert the names with --convert kohya"
    elif "unknown" in kinds or found.broken:
        verdict["A1111"] = "refuses the whole file because of modules of an unknown kind: --fix removes them"
    elif "DoRA" in kinds and not found.input_axis:
        verdict["A1111"] = "loads it, and applies the magnitudes along the wrong axis: bake it with svd_merge_lora.py --sd_model"
    if "DoRA" in kinds and not found.input_axis:
        verdict["ComfyUI"] = "loads it; it divides by the norm of the base weight, so the result differs slightly from training"
    if "OFT" in kinds and any(name.startswith("oft_unet_") for name in found.file.modules):
        verdict["ComfyUI"] = "ignores it: OFT files of kohya carry names that it does not know"
    if "IA3" in kinds:
        verdict["ComfyUI"] = "ignores the IA3 modules: it does not know their names"
    if found.file.others and "refuses" not in verdict["A1111"]:
        verdict["ComfyUI"] += ", and warns of unknown tensors"
    if "DoRA" in kinds:
        verdict["diffusers"] = "loads kohya's names without the magnitudes, which is wrong: use --convert diffusers"
        if not kohya and not found.input_axis:
            verdict["diffusers"] = "loads it"
    elif not plain:
        way = "svd_merge_lora.py --sd_model" if kinds & {"OFT", "IA3", "GLoRA"} else "resize_lora.py"
        verdict["diffusers"] = f"refuses it: it reads LoRA only, not {', '.join(sorted(kinds))}; {way} makes a LoRA of it"
    elif found.file.others:
        verdict["diffusers"] = "refuses it because of unknown tensors: --fix removes them"
    return verdict


def report(found: Diagnosis) -> Iterator[str]:
    """The whole finding, line by line."""
    file = found.file
    family = "SDXL" if file.sdxl else f"Stable Diffusion {'2' if file.is_v2 == 'True' else '1 or 2'}"
    yield f"{file.path}: {_counts(found.kinds)} for {family}, {len(file.modules)} modules"
    yield f"ranks: {_counts(found.ranks)}"
    yield f"alphas: {_counts(found.alphas)}"
    yield f"number formats: {_counts(found.dtypes)}"
    yield "norm of the change by block:"
    yield from chart(found)
    yield "what is wrong: " + ("nothing" if not found.problems else "")
    yield from (f"  - {problem}" for problem in found.problems)
    yield from (f"{program} {verdict}" for program, verdict in loaders(found).items())


def chart(found: Diagnosis) -> Iterator[str]:
    """One bar for each block that has modules, as long as the norm of all its changes together."""
    squares: dict[int, float] = {}
    for module, norm in found.norms.items():
        slot = block_slot(module)
        squares[slot] = squares.get(slot, 0.0) + (norm or 0.0) ** 2
    longest = math.sqrt(max(squares.values(), default=0.0)) or 1.0
    for slot in sorted(squares):
        norm = math.sqrt(squares[slot])
        yield f"  {slot_name(slot):5} {norm:9.4f} {'#' * round(BAR * norm / longest)}"


def slot_name(slot: int) -> str:
    if slot < IN:
        return "BASE"
    if slot == MID:
        return "M00"
    return f"IN{slot - IN:02d}" if slot < MID else f"OUT{slot - OUT:02d}"


def _counts(counter: Counter) -> str:
    return ", ".join(f"{value} ({count}x)" for value, count in counter.most_common(6)) or "none"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
