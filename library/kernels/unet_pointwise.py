"""Puts library.kernels.pointwise into a diffusers U-Net: only the `forward` of single modules is replaced, weights stay where they are."""

import functools
from collections.abc import Collection

from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from library.kernels.compiled_blocks import outside
from library.kernels.pointwise import Pointwise


def own_pointwise(unet: nn.Module, pointwise: Pointwise, compiled: Collection[nn.Module] = ()) -> None:
    """Residual blocks, norms of transformer blocks and their gates compute with `pointwise`; call it before adapters are applied.

    A norm that an adapter wraps later keeps that adapter, a norm that is trained is computed by torch.
    compiled: blocks that stay as they are, see library.kernels.compiled_blocks.
    """
    for module in outside(unet, compiled):
        if type(module) is ResnetBlock2D and is_simple(module):
            module.forward = functools.partial(residual_forward, module, pointwise)
        elif type(module) is GEGLU:
            module.forward = functools.partial(gate_forward, module, pointwise)
        elif isinstance(module, BasicTransformerBlock):
            for norm in (module.norm1, module.norm2, module.norm3):
                if type(norm) is nn.LayerNorm and len(norm.normalized_shape) == 1:
                    norm.forward = functools.partial(layer_norm_forward, norm, pointwise)
    for norm in lone_group_norms(unet):
        norm.forward = functools.partial(group_norm_forward, norm, pointwise)


def is_simple(block: ResnetBlock2D) -> bool:
    """Whether the block is one of a Stable Diffusion U-Net: SiLU, the time added between the convolutions, nothing resized."""
    return (
        isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and block.time_emb_proj is not None
        and not block.skip_time_act
        and block.dropout.p == 0
    )


def lone_group_norms(unet: nn.Module) -> list[nn.GroupNorm]:
    """The group norms outside residual blocks: before each stack of transformer blocks, and the last one."""
    inside = {id(norm) for block in unet.modules() if isinstance(block, ResnetBlock2D) for norm in (block.norm1, block.norm2)}
    return [module for module in unet.modules() if type(module) is nn.GroupNorm and id(module) not in inside]


def is_untouched(norm: nn.Module) -> bool:
    """Whether nobody put a forward or a hook of his own on the norm, so that it may be computed together with its neighbours."""
    return type(norm) is nn.GroupNorm and not ("forward" in norm.__dict__ or norm._forward_hooks or norm._forward_pre_hooks)


def residual_forward(block: ResnetBlock2D, pointwise: Pointwise, input_tensor: Tensor, temb: Tensor) -> Tensor:
    """The block's own mathematics. input_tensor (B, C, H, W); temb (B, D) -> (B, C', H, W).

    Layers are called in the block's own order, as those with adapters may draw random numbers.
    """
    hidden = block.conv1(norm_and_silu(block.norm1, block.nonlinearity, pointwise, input_tensor, None))
    shift = block.time_emb_proj(block.nonlinearity(temb))
    hidden = block.conv2(norm_and_silu(block.norm2, block.nonlinearity, pointwise, hidden, shift))
    if block.conv_shortcut is not None:
        input_tensor = block.conv_shortcut(input_tensor)
    output = input_tensor + hidden
    return output if block.output_scale_factor == 1 else output / block.output_scale_factor


def norm_and_silu(norm: nn.GroupNorm, silu: nn.Module, pointwise: Pointwise, x: Tensor, shift: Tensor | None) -> Tensor:
    if is_untouched(norm):
        return pointwise.group_norm(x, norm, silu=True, shift=shift)
    return silu(norm(x if shift is None else x + shift[:, :, None, None]))


def gate_forward(gate: GEGLU, pointwise: Pointwise, hidden_states: Tensor) -> Tensor:
    return pointwise.geglu(gate.proj(hidden_states))


def layer_norm_forward(norm: nn.LayerNorm, pointwise: Pointwise, x: Tensor) -> Tensor:
    return pointwise.layer_norm(x, norm)


def group_norm_forward(norm: nn.GroupNorm, pointwise: Pointwise, x: Tensor) -> Tensor:
    return pointwise.group_norm(x, norm)
