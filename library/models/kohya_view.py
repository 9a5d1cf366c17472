"""Our models as kohya's own model classes would show them: module paths, class names, order of registration.

Network modules of other people (LyCORIS and its kin) walk a model, choose layers by class name and path, and name adapters
by the paths they find. The layers themselves are ours, the tree above them follows kohya's classes: SDXL's U-Net in the
original (sgm) layout, a `text_model` level in text encoders, which transformers 5 has no longer. So files get the right
names, and initial weights are drawn in the right order, without a name ever being changed afterwards.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from library.models.ldm_keys import renamed
from library.models.sdxl_keys import UNET_TO_ORIGINAL

# Rank of a path component among its siblings; numbers rank by their value, names not listed come first.
REGISTRATION_ORDER = {
    "conv_in": 0, "time_embedding": 1, "time_embed": 1, "add_embedding": 2, "label_emb": 2,
    "down_blocks": 3, "up_blocks": 4, "mid_block": 5, "conv_norm_out": 6, "conv_out": 7,
    "input_blocks": 3, "middle_block": 4, "output_blocks": 5, "out": 6,
    "attentions": 0, "resnets": 1, "downsamplers": 2, "upsamplers": 2,
    "norm1": 0, "conv1": 1, "time_emb_proj": 2, "norm2": 3, "norm3": 4, "conv2": 4, "conv_shortcut": 5,
    "in_layers": 0, "emb_layers": 1, "out_layers": 2, "skip_connection": 3,
    "norm": 0, "proj_in": 1, "transformer_blocks": 2, "proj_out": 3,
    "attn1": -3, "ff": -2, "attn2": -1,
    "to_q": 0, "to_k": 1, "to_v": 2, "to_out": 3,
}  # fmt: skip

# diffusers' name -> kohya's, where they differ. LyCORIS 4 chooses every TimestepEmbedding, which it means for another model
# family, and would wrap SD1's twice, as it also chooses those layers by name; SDXL's is a Sequential in kohya's class.
CLASS_NAMES = {"Attention": "CrossAttention", "TimestepEmbedding": "Sequential"}


def registration_key(path: str) -> tuple[int, ...]:
    """Sorts dotted paths as kohya's classes register them: within a transformer block attn1, ff, attn2."""
    return tuple(int(part) if part.isdigit() else REGISTRATION_ORDER.get(part, 0) for part in path.split("."))


class View(nn.Module):
    """A module in the view. Its children are those of kohya's class; all else, calls included, goes to the module shown."""

    def __getattr__(self, name: str):
        if name in ("_modules", "_parameters", "_buffers") or name in self._modules:
            return super().__getattr__(name)
        return getattr(self.__dict__["shown"], name)

    def forward(self, *args, **kwargs):
        return self.__dict__["shown"](*args, **kwargs)


def view_of(shown: nn.Module, class_name: str) -> View:
    """An empty view of `shown` whose class has the name `class_name`."""
    view = type(class_name, (View,), {})()
    view.__dict__["shown"] = shown  # not a child: its own paths stay out of the view
    return view


def text_encoder_view(text_encoder: nn.Module) -> nn.Module:
    """The text encoder with a `text_model` level: itself where it has one."""
    if hasattr(text_encoder, "text_model"):
        return text_encoder
    view = view_of(text_encoder, type(text_encoder).__name__)
    view._modules["text_model"] = text_encoder
    return view


def unet_view(unet: nn.Module, *, original_layout: bool) -> View:
    """A UNet2DConditionModel under kohya's names. original_layout: SDXL's, with `input_blocks` and so on."""
    paths = {path: _original(path) if original_layout else path for path, _ in unet.named_modules() if path}
    containers = {shown_path: unet.get_submodule(path) for path, shown_path in paths.items() if shown_path}
    layers = {
        paths[path] or path: layer for path, layer in unet.named_modules() if any(True for _ in layer.parameters(recurse=False))
    }
    root = view_of(unet, "SdxlUNet2DConditionModel" if original_layout else type(unet).__name__)
    for path in sorted(layers, key=registration_key):
        *parents, name = path.split(".")
        _descend(root, parents, containers)._modules[name] = layers[path]  # add_module would ask the module shown for the name
    return root


def models_view(unet: nn.Module, text_encoders: Sequence[nn.Module], *, original_layout: bool) -> tuple[list[nn.Module], View]:
    """The views of all text encoders and of the U-Net."""
    return [text_encoder_view(encoder) for encoder in text_encoders], unet_view(unet, original_layout=original_layout)


def _descend(root: View, parents: Sequence[str], containers: Mapping[str, nn.Module]) -> nn.Module:
    """The view at the path `parents`, made on the way where it is not there yet."""
    node = root
    for depth, name in enumerate(parents, start=1):
        if name not in node._modules:
            container = containers.get(".".join(parents[:depth]))
            node._modules[name] = nn.Module() if container is None else view_of(container, _class_name(container))
        node = node._modules[name]
    return node


def _class_name(container: nn.Module) -> str:
    name = type(container).__name__
    return CLASS_NAMES.get(name, name)


def _original(path: str) -> str | None:
    """The original path of an SDXL layer or block; a downsampler, which the tables know by its convolution alone, stands above it."""
    convolution = None if path.endswith(".conv") else renamed(path + ".conv", UNET_TO_ORIGINAL)
    return renamed(path, UNET_TO_ORIGINAL) or (convolution and convolution.rpartition(".")[0])
