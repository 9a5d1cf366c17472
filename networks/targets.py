"""Which layers of a model an adapter wraps, in which order, and what each is called in the saved file.

U-Nets are diffusers' UNet2DConditionModel; text encoders are transformers' CLIP text models. The order is that in which
kohya's own model classes register their layers. It is not diffusers' order, and it decides which random numbers each
layer's initial weights get and how optimizer groups are laid out. SDXL layers carry the names of the original (sgm)
checkpoint layout, SD1 and SD2 layers those of diffusers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from library.models.kohya_view import registration_key
from library.models.ldm_keys import renamed
from library.models.sdxl_keys import UNET_TO_ORIGINAL

TRANSFORMER_CONTAINERS = ("Transformer2DModel",)
CONV_CONTAINERS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT_ENCODER_LAYERS = (
    "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One layer to wrap."""

    name: str  # module name in the file, such as lora_unet_down_blocks_0_attentions_0_proj_in
    path: str  # dotted path in kohya's model class (SDXL: the original layout)
    layer: nn.Linear | nn.Conv2d
    diffusers_name: str  # the name built from the diffusers path; differs from `name` on SDXL only

    @property
    def is_spatial(self) -> bool:
        """Whether the layer is a convolution that mixes neighbouring pixels (such layers take conv_dim)."""
        return isinstance(self.layer, nn.Conv2d) and tuple(self.layer.kernel_size) != (1, 1)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(out, in, ...) of the layer's weight, which is not asked for: one kept in 8 bit is made in full for whoever asks."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return layer.out_features, layer.in_features
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size


def is_sdxl(unet: nn.Module) -> bool:
    """SDXL U-Nets are told by their conditioning on pooled text and image size."""
    return getattr(getattr(unet, "config", None), "addition_embed_type", None) == "text_time"


def unet_targets(unet: nn.Module, *, with_conv: bool, prefix: str = "lora_unet") -> list[Target]:
    """The Linear and Conv2d layers inside the U-Net's transformers and, `with_conv`, inside its resnets and samplers."""
    containers = TRANSFORMER_CONTAINERS + (CONV_CONTAINERS if with_conv else ())
    sdxl = is_sdxl(unet)
    targets = []
    for container_path, container in unet.named_modules():
        if type(container).__name__ not in containers:
            continue
        for inner_path, layer in container.named_modules(prefix=container_path):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                path = sdxl_path(inner_path) if sdxl else inner_path
                targets.append(Target(module_name(prefix, path), path, layer, module_name(prefix, inner_path)))
    return sorted(targets, key=lambda target: registration_key(target.path))


def text_encoder_targets(text_encoder: nn.Module | Sequence[nn.Module] | None, *, prefix: str = "lora_te") -> list[Target]:
    """The attention and feed-forward layers of one text encoder (`lora_te`) or of several (`lora_te1`, `lora_te2`)."""
    encoders = list(text_encoder) if isinstance(text_encoder, (list, tuple)) else [text_encoder]
    targets = []
    for number, encoder in enumerate(encoders, start=1):
        if encoder is not None:
            targets += _encoder_targets(encoder, f"{prefix}{number}" if len(encoders) > 1 else prefix)
    return targets


def _encoder_targets(text_encoder: nn.Module, prefix: str) -> Iterator[Target]:
    """The layers of one CLIP text model; transformers 5 has no `text_model` level in it, file names always do."""
    layers = getattr(text_encoder, "text_model", text_encoder).encoder.layers
    for number, block in enumerate(layers):
        for inner_path in TEXT_ENCODER_LAYERS:
            path = f"text_model.encoder.layers.{number}.{inner_path}"
            name = module_name(prefix, path)
            yield Target(name, path, block.get_submodule(inner_path), name)


def module_name(prefix: str, path: str) -> str:
    return f"{prefix}_{path}".replace(".", "_")


def sdxl_path(path: str) -> str:
    """The original (sgm) path of an SDXL U-Net layer given by its diffusers path. Raises ValueError where there is none."""
    original = renamed(path, UNET_TO_ORIGINAL)
    if original is None:
        raise ValueError(f"the SDXL U-Net layer {path} has no place in the original checkpoint layout")
    return original
