"""What bench/learning.py compares: tables of cells, each the options in which a run differs from `COMMON`.

AdaFactor has a fixed rate, as most recipes for LoRA have it. AdamW8bit keeps states of fewer than 4,096 numbers in 32 bits unless told
otherwise, which would be all of them here.
"""

from dataclasses import dataclass, field
from typing import Any

COMMON = {
    "network_module": "networks.lora",
    "network_dim": 16,
    "network_alpha": 16,
    "network_train_unet_only": True,
    "optimizer_type": "AdamW",
    "learning_rate": 4e-3,
    "lr_scheduler": "constant",
    "mixed_precision": "no",
    "max_data_loader_n_workers": 0,
    "cache_latents_to_disk": True,
}
"""alpha is the rank everywhere, so that a rate means the same at every rank."""
RATES = {
    "AdamW": 4e-3,
    "AdamW8bit": 4e-3,
    "Lion": 1.6e-3,
    "AdaFactor": 2e-3,
    "Prodigy": 1.0,
    "DAdaptAdam": 1.0,
    "DAdaptLion": 1.0,
    "SGDNesterov": 3.0,
}
"""1 is what Prodigy and D-Adaptation are published with, AdamW8bit has AdamW's; the others are the best of their grids."""
ARGUMENTS = {
    "AdamW8bit": ["min_8bit_size=256"],
    "AdaFactor": ["relative_step=False", "scale_parameter=False", "warmup_init=False"],
}
GRIDS = {
    "AdamW": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "Lion": (4e-4, 8e-4, 1.6e-3, 3.2e-3),
    "AdaFactor": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "SGDNesterov": (1.0, 3.0, 10.0, 30.0),
}
ADAPTERS = {
    "LoRA": {},
    "LoRA+, ratio 4": {"network_args": ["loraplus_lr_ratio=4"]},
    "LoHa": {"network_module": "networks.loha"},
    "LoKr": {"network_module": "networks.lokr"},
    "DoRA": {"network_module": "networks.dora"},
}
ADAPTER_RATES = {"LoHa": 1e-3, "LoKr": 1.6e-2}
ADAPTER_GRIDS = {"LoHa": (5e-4, 1e-3, 2e-3, 4e-3), "LoKr": (4e-3, 8e-3, 1.6e-2, 3.2e-2)}
RANKS = (4, 16, 64)
CYCLES = 3


@dataclass(frozen=True)
class Cell:
    """labels: what stands in the table's first columns. options: on top of COMMON. with_reg: regularisation pictures too."""

    labels: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    with_reg: bool = False


def optimizer(name: str) -> dict[str, Any]:
    """The options of an optimizer with its rate."""
    options: dict[str, Any] = {"optimizer_type": name, "learning_rate": RATES[name]}
    return options | ({"optimizer_args": ARGUMENTS[name]} if name in ARGUMENTS else {})


def rank(number: int) -> dict[str, Any]:
    return {"network_dim": number, "network_alpha": number}


def schedules() -> dict[str, dict[str, Any]]:
    restarts = {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": CYCLES}
    made = {"constant": {}, "cosine": {"lr_scheduler": "cosine"}, f"{CYCLES} restarts": restarts}
    return made | {f"{CYCLES} restarts, floor {floor}": restarts | {"lr_scheduler_min_lr_ratio": floor} for floor in (0.3, 0.5)}


def _rates() -> list[Cell]:
    cells = [
        Cell((name, f"{rate:g}"), optimizer(name) | {"learning_rate": rate}) for name, rates in GRIDS.items() for rate in rates
    ]
    return cells + [
        Cell((name, f"{rate:g}"), ADAPTERS[name] | {"learning_rate": rate}) for name, rates in ADAPTER_GRIDS.items() for rate in rates
    ]


def _schedules() -> list[Cell]:
    return [Cell((name, title), optimizer(name) | options) for name in ("AdamW", "Prodigy") for title, options in schedules().items()]


def _adapters() -> list[Cell]:
    rates = {name: {"learning_rate": rate} for name, rate in ADAPTER_RATES.items()}
    return [Cell((name,), options | rates.get(name, {})) for name, options in ADAPTERS.items()]


TABLES: dict[str, tuple[tuple[str, ...], list[Cell]]] = {
    "rates": (("what", "rate"), _rates()),
    "optimizers": (("optimizer", "rank"), [Cell((name, str(r)), optimizer(name) | rank(r)) for name in RATES for r in RANKS]),
    "schedules": (("optimizer", "schedule"), _schedules()),
    "norms": (("--scale_weight_norms",), [Cell(("off",)), Cell(("1",), {"scale_weight_norms": 1.0})]),
    "dropout": (
        ("dropout",),
        [
            Cell(("none",)),
            Cell(("network 0.1",), {"network_dropout": 0.1}),
            Cell(("rank 0.1",), {"network_args": ["rank_dropout=0.1"]}),
            Cell(("module 0.1",), {"network_args": ["module_dropout=0.1"]}),
        ],
    ),
    "adapters": (("adapter",), _adapters()),
    "regularisation": (("regularisation pictures",), [Cell(("without",)), Cell(("with",), with_reg=True)]),
}
"""Table -> the heads of its first columns, and its cells."""
ONE_SEED = ("rates",)
"""Tables that are no result but a choice: one seed is enough."""
