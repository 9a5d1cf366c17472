"""States that all families' models go through: frozen, and with recomputed activations."""

from torch import nn

from library.models.family import Models


def freeze(models: Models) -> Models:
    """Switches gradients and train mode off in all models that are there."""
    for module in (models.unet, models.vae, *models.text_encoders):
        if module is not None:
            module.requires_grad_(False)
            module.eval()
    return models


def enable_gradient_checkpointing(models: Models, *, train_text_encoders: bool) -> None:
    """Activations of the U-Net, and of text encoders that are trained, are recomputed in the backward pass.

    It acts in train mode only, so the U-Net and all text encoders are put in it; they have no dropout of their own. The
    non-reentrant form needs no gradient on a block's inputs, so embeddings stay frozen.
    """
    models.unet.enable_gradient_checkpointing()
    for module in (models.unet, *models.text_encoders):
        module.train()
    if train_text_encoders:
        for text_encoder in models.text_encoders:
            _checkpoint_text_encoder(text_encoder)


def _checkpoint_text_encoder(text_encoder: nn.Module) -> None:
    text_encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
