"""DoRA (arXiv:2402.09353): LoRA beside a trained magnitude per input or output channel: `--network_module networks.dora`.

The same as networks.lora with --network_args dora_wd=True, and it takes the same arguments. Magnitudes are per input channel, the
form that A1111 and ComfyUI apply as it was trained; wd_on_output=True gives the paper's, LyCORIS's and PEFT's, per output channel.
networks.loha and networks.lokr take dora_wd=True as well. The mathematics is in networks/magnitude.py.

Keys in the file: LoRA's and `<module>.dora_scale`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from library.saving.weights import load_tensors
from networks.arguments import read_network_args
from networks.factory import with_dropout
from networks.layers import lora_module
from networks.lora import NETWORK_ARGS, LoRANetwork, network_like_file, new_network


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> LoRANetwork:
    """A fresh network; `kwargs` are the --network_args as text, those of networks.lora."""
    options = read_options(kwargs, neuron_dropout)
    return new_network(LoRANetwork, lora_module, options, multiplier, network_dim, network_alpha, text_encoder, unet)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, neuron_dropout=None, **kwargs,
) -> tuple[LoRANetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the ranks, alphas and axes in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet.

    A file of plain LoRA gives magnitudes that are still those of the base model.
    """
    weights = load_tensors(file) if weights_sd is None else weights_sd
    return network_like_file(
        LoRANetwork, lora_module, read_options(kwargs, neuron_dropout), multiplier, weights, str(file), text_encoder, unet
    )


def read_options(given: Mapping[str, Any], neuron_dropout: float | None) -> dict[str, Any]:
    """The --network_args, with decomposition on. Raises ValueError if they switch it off."""
    options = with_dropout(read_network_args(given, NETWORK_ARGS, "networks.dora"), neuron_dropout)
    for key in ("dora_wd", "weight_decompose"):
        if options[key] is False:
            raise ValueError(f"--network_args {key}={given[key]}: networks.dora always decomposes; use --network_module networks.lora")
    return options | {"dora_wd": True}
