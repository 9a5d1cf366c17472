"""The network object a training script works with: kohya's plug-in contract, once for all kinds of adapters.

A network holds one AdapterModule per wrapped layer, text encoders first, in the order of `targets.py`. The modules become
children, and so parameters, when `apply_to` puts them in place.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from library.saving.hashes import network_hashes
from library.saving.weights import load_tensors, save_tensors, storable
from networks.block_weights import block_index
from networks.consumers import advice
from networks.layers import AdapterModule, LoRAModule
from networks.shadow import Shadow
from networks.shared_inputs import group
from networks.weight_files import LoadReport, check_same_family, fitted_shapes, modules_in, renamed

logger = logging.getLogger(__name__)

EXACT_SUFFIX = ".dora_scale"  # rounding a magnitude to half precision changes the whole weight by more than training does


@dataclass(frozen=True)
class LoraPlus:
    """How many times the base rate the fast parameters learn at (LoRA+, arXiv:2402.12354). None or 0 is off."""

    ratio: float | None = None
    unet_ratio: float | None = None
    text_encoder_ratio: float | None = None


class AdapterNetwork(nn.Module):
    """All adapters of a model. Attributes of the contract: `text_encoder_loras`, `unet_loras`, `multiplier`."""

    def __init__(
        self,
        text_encoder_loras: list[AdapterModule],
        unet_loras: list[AdapterModule],
        *,
        multiplier: float = 1.0,
        loraplus: LoraPlus | None = None,
        block_weights: list[float] | None = None,
    ):
        """block_weights: learning-rate factor of each U-Net block; given, each block is an optimizer group of its own."""
        super().__init__()
        self.text_encoder_loras = text_encoder_loras
        self.unet_loras = unet_loras
        self.multiplier = multiplier
        self.loraplus = loraplus or LoraPlus()
        self.block_weights = block_weights
        self.shadow: Shadow | None = None
        self.advised = False
        self._unets: list[nn.Module] = []  # a list, as the U-Net is no child of the network
        self.register_load_state_dict_post_hook(lambda network, _: network.weights_changed())
        logger.info("%d text encoder modules, %d U-Net modules", len(text_encoder_loras), len(unet_loras))

    @property
    def adapters(self) -> list[AdapterModule]:
        return self.text_encoder_loras + self.unet_loras

    # --- putting in place -------------------------------------------------------------------------------------------

    def apply_to(self, text_encoder, unet, apply_text_encoder: bool = True, apply_unet: bool = True) -> None:
        """Wraps the layers and makes the modules children. Sections not applied are dropped and never saved."""
        if not apply_text_encoder:
            self.text_encoder_loras = []
        if not apply_unet:
            self.unet_loras = []
        for module in self.adapters:
            module.apply_to()
            self.add_module(module.lora_name, module)
        self._unets = [] if unet is None else [unet]

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier
        for module in self.adapters:
            module.multiplier = multiplier

    def set_enabled(self, is_enabled: bool) -> None:
        """Switches all adapters on, or off so that the base model answers alone."""
        for module in self.adapters:
            module.enabled = is_enabled

    # --- training ---------------------------------------------------------------------------------------------------

    def prepare_optimizer_params(
        self, text_encoder_lr: float | None, unet_lr: float | None, default_lr: float | None
    ) -> tuple[list[dict], list[str]]:
        """Optimizer groups and their names in the logs.

        A rate of None means `default_lr`; sections whose rate is then None or 0 get no group. Raises ValueError if none is left.
        """
        plus = self.loraplus
        groups, names = [], []
        for name, modules, rate in self._sections(_first_of(text_encoder_lr, default_lr), _first_of(unet_lr, default_lr)):
            ratio = (plus.unet_ratio if name.startswith("unet") else plus.text_encoder_ratio) or plus.ratio
            for suffix, parameters, factor in split_fast(modules, ratio):
                if parameters and rate and factor * rate:
                    groups.append({"params": parameters, "lr": rate * factor})
                    names.append(name + suffix)
        if not groups:
            raise ValueError(
                f"nothing is left to train: --text_encoder_lr {text_encoder_lr}, --unet_lr {unet_lr}, --learning_rate {default_lr} "
                f"for {len(self.text_encoder_loras)} text encoder and {len(self.unet_loras)} U-Net modules; give a rate above 0"
            )
        return groups, names

    def _sections(self, text_encoder_rate, unet_rate) -> Iterator[tuple[str, list[AdapterModule], float | None]]:
        """(name, modules, rate) of the text encoders, then of the U-Net or each of its blocks in order of first occurrence."""
        yield "textencoder", self.text_encoder_loras, text_encoder_rate
        if self.block_weights is None:
            yield "unet", self.unet_loras, unet_rate
            return
        blocks: dict[int, list[AdapterModule]] = {}
        for module in self.unet_loras:
            blocks.setdefault(block_index(module.target.path), []).append(module)
        for index, modules in blocks.items():
            yield (f"unet_block{index}", modules, unet_rate and unet_rate * self.block_weights[index])

    def prepare_grad_etc(self, text_encoder, unet) -> None:
        for module in self.adapters:
            for _, parameter in module.trained_parameters():
                parameter.requires_grad_(True)

    def on_epoch_start(self, text_encoder, unet) -> None:
        self.train()

    def compute_in(self, dtype: torch.dtype) -> None:
        """From now on LoRA modules compute with copies of their weights in `dtype`, the dtype of autocast. Call on the final device."""
        plain = [module for module in self.adapters if isinstance(module, LoRAModule) and module.magnitude_axis is None]
        modules = [module for module in plain if module.lora_down.weight.dtype != dtype]
        groups = [found for unet in self._unets for found in group(unet, modules, dtype)]
        self.shadow = Shadow(modules, dtype, groups) if modules else None

    def weights_changed(self) -> None:
        """To be called after weights were changed in place by an optimizer or otherwise."""
        if self.shadow is not None:
            self.shadow.refresh()

    def backward_done(self) -> None:
        """To be called after each backward pass: all gradients are in the parameters then."""
        if self.shadow is not None:
            self.shadow.gather()

    @property
    def same_every_step(self) -> bool:
        """Whether a step can be recorded and replayed."""
        return all(module.same_every_step for module in self.adapters)

    def leaves(self) -> list[Tensor]:
        """What autograd sees: the parameters, or the low-precision copies that are computed with in their place."""
        if self.shadow is None:
            return list(self.parameters())
        copied = {id(weight) for weight in self.shadow.weights}
        return [*self.shadow.copies, *(parameter for parameter in self.parameters() if id(parameter) not in copied)]

    def get_trainable_params(self) -> Iterator[nn.Parameter]:
        """All parameters, also those of sections without an optimizer group."""
        return (parameter for module in self.adapters for _, parameter in module.trained_parameters())

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to do: the adapters run inside the models' checkpointed blocks."""

    # --- files ------------------------------------------------------------------------------------------------------

    def save_weights(self, file: str | Path, dtype: torch.dtype | None, metadata: dict[str, str] | None) -> None:
        """Writes all tensors, cast to `dtype` if given, but DoRA's magnitudes as they are.

        Adds sshs_model_hash and sshs_legacy_hash to the caller's `metadata`.
        """
        self._advise()
        metadata = {} if metadata is None else metadata
        state = self.state_dict()
        exact = {name: tensor for name, tensor in state.items() if name.endswith(EXACT_SUFFIX)}
        weights = {**storable(state, dtype), **storable(exact, None)}
        if Path(file).suffix == ".safetensors":
            metadata["sshs_model_hash"], metadata["sshs_legacy_hash"] = network_hashes(weights, metadata)
        save_tensors(file, weights, metadata)

    def _advise(self) -> None:
        """Tells once which programs do not apply such a file as trained."""
        line = advice((module.kind, module.magnitude_axis) for module in self.adapters)
        if line and not self.advised:
            logger.warning("%s", line)
        self.advised = True

    def load_weights(self, file: str | Path) -> LoadReport:
        """Fills the network from a file, after `apply_to`; the scale follows the file's alpha.

        Tensors without a counterpart are reported, not fatal. Raises ValueError for a file of another family or other ranks.
        """
        weights = self.fit(load_tensors(file), str(file))
        missing, unexpected = self.load_state_dict(weights, strict=False)
        return LoadReport(len(weights) - len(unexpected), missing, unexpected)

    def fit(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """A file's tensors under this network's names and shapes. Raises ValueError naming `source` if they do not fit."""
        weights = renamed(weights, [(module.target.diffusers_name, module.lora_name) for module in self.adapters])
        check_same_family(weights, [module.lora_name for module in self.adapters], source)
        wanted = {f"{module.lora_name}.{key}": tensor for module in self.adapters for key, tensor in module.state_dict().items()}
        return fitted_shapes(weights, wanted, source)

    # --- merging ----------------------------------------------------------------------------------------------------

    def is_mergeable(self) -> bool:
        return True

    def merge_to(self, text_encoder, unet, weights_sd: Mapping[str, Tensor], dtype=None, device=None) -> None:
        """Adds the file's adapters, times this network's multiplier, to the models' weights; fp32 inside, rounded to `dtype`."""
        weights = self.fit(weights_sd, "the adapter to merge")
        held = modules_in(weights)
        merged = [module for module in self.adapters if module.lora_name in held]
        for module in merged:
            start = module.lora_name + "."
            own = {key.removeprefix(start): tensor for key, tensor in weights.items() if key.startswith(start)}
            module.load_state_dict(own, strict=False)
            module.merge(dtype, device)
        logger.info("merged %d modules into the base model", len(merged))

    def backup_weights(self) -> None:
        """Keeps a copy of every wrapped weight, once, for `restore_weights`."""
        for module in self.adapters:
            if module.kept_weight is None:
                module.kept_weight = module.org_module.weight.detach().clone()

    def pre_calculation(self) -> None:
        """Merges this network into the weights as they are and switches the adapters off: inference costs nothing extra."""
        for module in self.adapters:
            module.merge()
            module.enabled = False

    @torch.no_grad()
    def restore_weights(self) -> None:
        """Puts the kept weights back and switches the adapters on again."""
        for module in self.adapters:
            if module.kept_weight is not None:
                module.org_module.weight.copy_(module.kept_weight)
                module.enabled = True


def split_fast(modules: Iterable[AdapterModule], ratio: float | None) -> list[tuple[str, list[nn.Parameter], float]]:
    """(name suffix, parameters, rate factor): all parameters at factor 1, or the fast ones apart at `ratio`."""
    slow, fast = [], []
    for module in modules:
        for name, parameter in module.trained_parameters():
            is_fast = ratio and any(part in name for part in module.fast_parameters)
            (fast if is_fast else slow).append(parameter)
    return [("", slow, 1.0), (" plus", fast, ratio or 1.0)]


def _first_of(rate: float | None, default: float | None) -> float | None:
    return default if rate is None else rate
