"""Which attention kernels the U-Net and the VAE use, and the U-Net's attention itself."""

import importlib.util
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class SharedInputProcessor:
    """Scaled dot product attention of one U-Net layer whose q, k and v, where they read the same input, may be computed together.

    shared: given the input, the outputs of to_q, to_k and to_v (in cross-attention of to_k and to_v), or None to compute each by
    itself. Attentions with more in them than a Stable Diffusion U-Net has go through diffusers' own processor.
    """

    def __init__(self) -> None:
        self.shared: Callable[[Tensor], tuple[Tensor, ...] | None] | None = None
        self._general = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, L, D) -> (B, L, D); encoder_hidden_states (B, M, D') for cross-attention."""
        if hidden_states.ndim != 3 or attention_mask is not None or not is_simple(attn):
            return self._general(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, key, value = (heads(states, attn.heads) for states in self._projections(attn, hidden_states, encoder_hidden_states))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))

    def _projections(self, attn: Attention, hidden_states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (B, L or M, D); the layers are called, or draw their dropout, in this order."""
        together = None
        if self.shared is not None and not attn.is_cross_attention and context is None:
            together = self.shared(hidden_states)
        if together is not None:
            return together
        query = attn.to_q(hidden_states)
        context = hidden_states if context is None else context
        if self.shared is not None and attn.is_cross_attention:
            together = self.shared(context)
        return query, *(together or (attn.to_k(context), attn.to_v(context)))


def is_simple(attn: Attention) -> bool:
    """Whether q, k, v, softmax and the output layer are all there is in this attention."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    return not attn.residual_connection and attn.rescale_output_factor == 1 and all(extra is None for extra in extras)


def heads(states: Tensor, count: int) -> Tensor:
    """(B, L, count * size) as (B, count, L, size)."""
    return states.unflatten(-1, (count, -1)).transpose(1, 2)


def own_attention(unet: nn.Module) -> None:
    """Gives each attention of the U-Net that has diffusers' scaled dot product attention our processor of the same mathematics."""
    for module in unet.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            module.set_processor(SharedInputProcessor())


def set_attention(
    unet: nn.Module, vae: nn.Module | None, *, sdpa: bool, xformers: bool, mem_eff_attn: bool, device: torch.device | str
) -> None:
    """Acts on --mem_eff_attn, --xformers and --sdpa, the first of them that is set.

    The U-Net uses torch's scaled dot product attention unless it is told otherwise. It takes the place of plain attention and of
    --mem_eff_attn as well: its results differ by rounding only, and it never holds a whole score matrix on a GPU.
    Raises ValueError for --xformers on a GPU without the package.
    """
    own_attention(unet)
    if mem_eff_attn:
        logger.info("--mem_eff_attn: using torch's scaled dot product attention, which needs no more memory and is faster")
        return
    if not xformers:
        return
    if sdpa:
        logger.info("--xformers goes before --sdpa")
    if torch.device(device).type != "cuda":
        logger.warning("--xformers works on CUDA only, and this device is %s: using --sdpa instead", device)
        return
    if importlib.util.find_spec("xformers") is None:
        raise ValueError("--xformers needs the package xformers: pip install xformers, or use --sdpa, which needs nothing")
    for module in (unet, vae):
        if module is not None:
            module.enable_xformers_memory_efficient_attention()
