"""OFT (arXiv:2306.07280): turns each layer's output channels, in blocks, by learned rotations: `--network_module networks.oft`.

--network_dim is the number of blocks, --network_alpha bounds how far they turn. U-Net only. Keys in the file:
`oft_unet_<layer>.oft_blocks` (blocks, size, size) and `alpha`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from library.saving.weights import load_tensors
from networks.arguments import boolean, read_network_args
from networks.factory import ModelTargets, assemble, like_file
from networks.layers import AdapterModule
from networks.network import AdapterNetwork
from networks.ranks import Ranks, rank_axis, ranks_of_file
from networks.rotations import cayley_turn
from networks.targets import unet_targets

logger = logging.getLogger(__name__)

NETWORK_ARGS = {"enable_all_linear": boolean, "enable_conv": boolean}
IGNORED_ARGS = ("dropout",)  # added by the trainer to every network's arguments
NO_DROPOUT = {"dropout": None, "rank_dropout": None, "module_dropout": None}
DEFAULT_CONSTRAINT = 1e-3


class OFTModule(AdapterModule):
    """The rotations of one layer; zero blocks turn nothing."""

    kind = "OFT"

    def __init__(self, target, rank, alpha, multiplier, dropout):
        """rank: the number of blocks, which must divide the layer's outputs. Raises ValueError otherwise."""
        super().__init__(target, rank, alpha, multiplier, dropout)
        out = target.weight_shape[0]
        if out % rank:
            raise ValueError(f"networks.oft: --network_dim {rank} blocks do not divide the {out} outputs of {target.name}")
        self.oft_blocks = nn.Parameter(torch.zeros(rank, out // rank, out // rank))

    @property
    def same_every_step(self) -> bool:
        """False, so that steps are not recorded: the libraries that solve for the rotations are not known to allow it."""
        return False

    def turn(self) -> Tensor:
        """R - I of every block, (blocks, size, size) fp32; R is a rotation by Cayley's formula (I + Q) (I - Q)^-1."""
        alpha = self.scale * self.rank  # as a host number; the buffer may be on another device
        return cayley_turn(self.oft_blocks.float(), alpha * self.target.weight_shape[0])

    def adapt(self, x: Tensor, base: Tensor) -> Tensor:
        """Rotating the outputs equals rotating the rows of the weight; the bias is not turned."""
        channels_last = base if isinstance(self.org_module, nn.Linear) else base.movedim(1, -1)
        plain = channels_last if self.org_module.bias is None else channels_last - self.org_module.bias
        with torch.autocast(base.device.type, enabled=False):
            blocks = plain.float().unflatten(-1, (self.rank, -1))
            turned = torch.einsum("...kn,knm->...km", blocks, self.turn()).flatten(-2)
        result = channels_last + (self.multiplier * turned).to(base.dtype)
        return result if isinstance(self.org_module, nn.Linear) else result.movedim(-1, 1)

    def delta_weight(self) -> Tensor:
        weight = self.org_module.weight.to(self.oft_blocks.device, torch.float32)
        rows = weight.flatten(1).unflatten(0, (self.rank, -1))
        return torch.einsum("knm,kni->kmi", self.turn(), rows).reshape(weight.shape)


def create_network(
    multiplier: float, network_dim: int | None, network_alpha: float | None, vae, text_encoder, unet, neuron_dropout=None, **kwargs
) -> AdapterNetwork:
    """A fresh network; `kwargs` are the --network_args as text: enable_all_linear, enable_conv."""
    options = read_network_args({key: value for key, value in kwargs.items() if key not in IGNORED_ARGS}, NETWORK_ARGS, "networks.oft")
    alpha = DEFAULT_CONSTRAINT if network_alpha is None else network_alpha
    if alpha >= 1:
        logger.warning("networks.oft: --network_alpha %s hardly bounds the rotations; 1e-3 is usual", alpha)
    targets = unet_targets(unet, with_conv=bool(options["enable_conv"]), prefix="oft_unet")
    if not (options["enable_all_linear"] or options["enable_conv"]):
        targets = [target for target in targets if ".attn" in target.path]
    rule = Ranks(4 if network_dim is None else network_dim, alpha, network_dim or 4, alpha)
    return assemble(AdapterNetwork, OFTModule, ModelTargets([], targets), rule, rule, NO_DROPOUT, multiplier)


def create_network_from_weights(
    multiplier: float, file: str | Path | None, vae, text_encoder, unet, weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False, **kwargs,
) -> tuple[AdapterNetwork, dict[str, Tensor]]:  # fmt: skip
    """A network of the layers, blocks and bounds in `file` (or in `weights_sd`), and the file's tensors; they are not loaded yet."""
    targets = ModelTargets([], unet_targets(unet, with_conv=True, prefix="oft_unet"))
    weights = like_file(load_tensors(file) if weights_sd is None else weights_sd, targets, str(file))
    rule = ranks_of_file(weights, rank_axis("oft_blocks", 0))
    return assemble(AdapterNetwork, OFTModule, targets, rule, rule, NO_DROPOUT, multiplier), weights
