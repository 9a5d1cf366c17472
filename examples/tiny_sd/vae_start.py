"""A start for the autoencoder that needs no training: each latent position holds its 8x8 pixels' mean colour.

Six of the first twelve channels of every level carry +red, -red, +green, -green, +blue, -blue; six hold +-STEADY, so that group
norms find nearly the same variance in every picture and colours survive them. silu(x) - silu(-x) = x makes the last
activation of encoder and decoder linear in these pairs. Residual branches begin at zero: training adds the edges.
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

STEADY = 4.0
COLOURS = ((0, 1), (4, 5), (8, 9))
"""Channels of plus and minus each colour; the two after each pair are steady."""
CARRIED = 12


@torch.no_grad()
def start_as_average(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """pictures: (n, 3, h, w) in [-1, 1], for the latents' mean and variance."""
    for name, parameter in vae.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias", "to_out.0.weight", "to_out.0.bias")):
            parameter.zero_()
    encoder, decoder = vae.encoder, vae.decoder
    _spread_colours(encoder.conv_in)
    _spread_colours(decoder.conv_in)
    for block in (*encoder.down_blocks, *decoder.up_blocks):
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                _pass_on(resnet.conv_shortcut)
        for sampler in getattr(block, "downsamplers", None) or []:
            _pass_on(sampler.conv, average=True)
        for sampler in getattr(block, "upsamplers", None) or []:
            _pass_on(sampler.conv)
    _gather_colours(encoder.conv_out, encoder.conv_norm_out.num_channels // encoder.conv_norm_out.num_groups)
    _gather_colours(decoder.conv_out, decoder.conv_norm_out.num_channels // decoder.conv_norm_out.num_groups)
    vae.quant_conv.weight.copy_(torch.eye(8)[:, :, None, None])
    vae.quant_conv.bias.zero_()
    latents = vae.encode(pictures).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae.quant_conv.weight[:4] /= std[:, None, None, None]
    vae.quant_conv.bias[:4] = -mean / std
    vae.post_quant_conv.weight.copy_(torch.diag(std)[:, :, None, None])
    vae.post_quant_conv.bias.copy_(mean)


def _spread_colours(conv: nn.Conv2d) -> None:
    """The first three input channels to the six carried ones; steady values come from the bias."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for colour, (plus, minus) in enumerate(COLOURS):
        conv.weight[plus, colour, 1, 1] = 1
        conv.weight[minus, colour, 1, 1] = -1
        conv.bias[minus + 1], conv.bias[minus + 2] = STEADY, -STEADY


def _pass_on(conv: nn.Conv2d, average: bool = False) -> None:
    """Carried channels unchanged, or as the mean of 2x2 where the convolution halves the size."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    middle = conv.kernel_size[0] // 2
    for channel in range(CARRIED):
        if average:
            conv.weight[channel, channel, :2, :2] = 0.25
        else:
            conv.weight[channel, channel, middle, middle] = 1


def _gather_colours(conv: nn.Conv2d, group: int) -> None:
    """Undoes the group norm's division; `group`: channels in one group."""
    pairs = min(3, group // 4)
    spread = ((pairs * (2 * 0.3 + 2 * STEADY**2)) / group) ** 0.5
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for colour, (plus, minus) in enumerate(COLOURS):
        conv.weight[colour, plus, 1, 1] = spread
        conv.weight[colour, minus, 1, 1] = -spread
