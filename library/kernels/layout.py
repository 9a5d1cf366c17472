"""Channels-last memory for the U-Net's convolutions, chosen here and nowhere else.

Tensor cores read half precision with the channels of one position side by side; from the other layout cuDNN copies every input and
output. Tokens of transformer blocks are channels-last already, so their way in and out of a picture costs nothing either.
"""

import functools

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

TENSOR_CORES = (7, 0)  # compute capability
HALF = (torch.float16, torch.bfloat16)


def layout_for(device: torch.device, dtype: torch.dtype, *, norms_follow: bool) -> torch.memory_format:
    """Channels-last for half precision on NVIDIA's tensor cores; elsewhere nothing is gained (measured on the CPU).

    norms_follow: whether group norms keep the layout, as our kernels and compiled ones do. torch's own return contiguous pictures.
    """
    if not norms_follow or device.type != "cuda" or dtype not in HALF or torch.version.hip is not None:
        return torch.contiguous_format
    return torch.channels_last if torch.cuda.get_device_capability(device) >= TENSOR_CORES else torch.contiguous_format


def own_layout(unet: nn.Module, layout: torch.memory_format) -> None:
    """Lays the U-Net's convolution weights out, and with channels-last the pictures between its layers.

    Nothing is done where weights are made anew for each use (8 bit, swapped blocks): they come contiguous.
    """
    if layout != torch.channels_last or any(isinstance(layer, nn.Conv2d) and "weight" not in layer._parameters for layer in unet.modules()):
        return
    for parameter in unet.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    unet.conv_in.register_forward_pre_hook(lambda layer, inputs: (inputs[0].contiguous(memory_format=layout), *inputs[1:]))
    for module in unet.modules():
        if type(module) is Transformer2DModel and hasattr(module, "_get_output_for_continuous_inputs"):
            module._get_output_for_continuous_inputs = functools.partial(tokens_as_picture, module)


def tokens_as_picture(
    model: Transformer2DModel, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """The model's end without a copy: tokens (B, H W, D) are a channels-last picture (B, D, H, W). Returns residual + their projection."""
    if model.use_linear_projection:
        hidden_states = model.proj_out(hidden_states)
    hidden_states = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)
    return residual + (hidden_states if model.use_linear_projection else model.proj_out(hidden_states))
