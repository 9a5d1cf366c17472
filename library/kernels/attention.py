"""Which attention kernels the U-Net and the VAE use, and the U-Net's attention itself."""

import inspect
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from library.kernels.attention_choice import XFORMERS, Attend, attend_function

logger = logging.getLogger(__name__)


class SharedInputProcessor:
    """Scaled dot product attention of one U-Net layer whose q, k and v, where they read the same input, may be computed together.

    shared: given the input, the outputs of to_q, to_k and to_v (in cross-attention of to_k and to_v), or None to compute each by
    itself; compiled blocks do that. Attentions with more in them than a Stable Diffusion U-Net has go through diffusers' own processor.
    """

    def __init__(self, attend: Attend = F.scaled_dot_product_attention) -> None:
        self.attend = attend
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
        attended = self.attend(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))

    def _projections(self, attn: Attention, hidden_states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (B, L or M, D); the layers are called, or draw their dropout, in this order."""
        together, shared = None, None if torch.compiler.is_compiling() else self.shared
        if shared is not None and not attn.is_cross_attention and context is None:
            together = shared(hidden_states)
        if together is not None:
            return together
        query = attn.to_q(hidden_states)
        context = hidden_states if context is None else context
        if shared is not None and attn.is_cross_attention:
            together = shared(context)
        return query, *(together or (attn.to_k(context), attn.to_v(context)))


# diffusers reads the signature at each call of each attention; put together beforehand it takes 7 microseconds, else 23.
SharedInputProcessor.__call__.__signature__ = inspect.signature(SharedInputProcessor.__call__)


def is_simple(attn: Attention) -> bool:
    """Whether q, k, v, softmax and the output layer are all there is in this attention."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    return not attn.residual_connection and attn.rescale_output_factor == 1 and all(extra is None for extra in extras)


def heads(states: Tensor, count: int) -> Tensor:
    """(B, L, count * size) as (B, count, L, size)."""
    return states.unflatten(-1, (count, -1)).transpose(1, 2)


def own_attention(unet: nn.Module, attend: Attend = F.scaled_dot_product_attention) -> None:
    """Gives each attention of the U-Net that has diffusers' scaled dot product attention our processor of the same mathematics."""
    for module in unet.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            module.set_processor(SharedInputProcessor(attend))


def set_attention(
    unet: nn.Module,
    vae: nn.Module | None,
    *,
    sdpa: bool,
    xformers: bool,
    mem_eff_attn: bool,
    attention: str | None = None,
    device: torch.device | str,
) -> None:
    """Acts on --attention, --mem_eff_attn, --xformers and --sdpa, the first of them that is set.

    The U-Net uses torch's scaled dot product attention unless it is told otherwise. It takes the place of plain attention and of
    --mem_eff_attn as well: its results differ by rounding only, and it never holds a whole score matrix on a GPU.
    Raises ValueError for xFormers on a GPU without the package.
    """
    device_type = torch.device(device).type
    choice = attention
    if attention is None and mem_eff_attn:
        logger.info("--mem_eff_attn: using torch's scaled dot product attention, which needs no more memory and is faster")
    elif attention is None and xformers:
        if sdpa:
            logger.info("--xformers goes before --sdpa")
        if device_type == "cuda":
            choice = XFORMERS
        else:
            logger.warning("--xformers works on CUDA only, and this device is %s: using --sdpa instead", device_type)
    own_attention(unet, attend_function(choice, device_type))
    if choice == XFORMERS and device_type == "cuda" and vae is not None:
        vae.enable_xformers_memory_efficient_attention()
