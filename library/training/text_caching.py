"""Encoding captions once, before training, so that the text encoders can leave the device."""

import hashlib
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from library.data.caption_variants import count_captions
from library.data.group import DatasetGroup
from library.data.text_cache import TextFiles, cache_text_states
from library.models import text
from library.models.family import Family, Models
from library.models.stored_weights import all_weights
from library.training.base_models import place_text_encoder
from library.training.datasets import RunData, tokenize_function
from library.training.listing import text_cache_asked_for
from library.training.precision import DTYPES

logger = logging.getLogger(__name__)

UNASKED_LIMIT = 2 * 2**30  # bytes of memory that are taken without being asked for
VALUES_SAMPLED = 256  # of each parameter, for a name of the text encoders


def cache_text(data: RunData, args: Namespace, family: Family, models: Models, accelerator: Accelerator) -> bool:
    """Fills the text caches of all data sets if an option asks for it, or if captions never change and no text encoder is trained.

    Returns whether it did. To be called when the weights of the text encoders are final, --base_weights included.
    """
    groups = [group for group in (data.train, data.validation) if group is not None]
    asked = text_cache_asked_for(args)
    if not asked and not (args.network_train_unet_only and all(group.captions_are_static for group in groups)):
        return False
    variants = args.text_encoder_cache_variants
    as_stored = asked and args.strict_compat and variants is None
    for text_encoder in models.text_encoders:
        place_text_encoder(text_encoder, accelerator.device, DTYPES[args.mixed_precision])
    encode = encoder(args, family, models, accelerator)
    if not asked and needed_memory(groups, encode) > UNASKED_LIMIT:
        logger.info("text encoder outputs are not cached, as they would take more than %d GB of memory", UNASKED_LIMIT // 2**30)
        return False
    to_disk = getattr(args, "cache_text_encoder_outputs_to_disk", False)
    files = text_files(args, family, models, accelerator) if to_disk else None
    for group in groups:
        cache_text_states(
            group,
            encode,
            files=files,
            variants=None if group.captions_are_static else variants,
            as_stored=as_stored,
            show_progress=accelerator.is_local_main_process,
        )
    accelerator.wait_for_everyone()
    logger.info("text encoder outputs are cached %s, the text encoders leave the device", "on disk" if to_disk else "in memory")
    return True


def encoder(
    args: Namespace, family: Family, models: Models, accelerator: Accelerator
) -> Callable[[list[str]], dict[str, Tensor]]:
    """A function: captions -> their text states on the CPU, in the precision in which the step uses them."""
    dtype, tokenize = DTYPES[args.mixed_precision], tokenize_function(args, family)

    @torch.no_grad()
    def encode(captions: list[str]) -> dict[str, Tensor]:
        input_ids, token_weights = tokenize(captions)
        with accelerator.autocast():
            states = family.encode_text(models.text_encoders, input_ids, token_weights)
        return {name: state.to("cpu", dtype) for name, state in states.items()}

    return encode


def needed_memory(groups: Sequence[DatasetGroup], encode: Callable[[list[str]], dict[str, Tensor]]) -> int:
    """Bytes that the text states of all captions take, one for each image's caption that differs from the others."""
    one = sum(tensor.nbytes for tensor in encode([""]).values())
    return one * sum(count_captions(group, None, as_stored=False) for group in groups)


def text_files(args: Namespace, family: Family, models: Models, accelerator: Accelerator) -> TextFiles:
    """How this run's cache files are made. Weighted captions count as other text encoders: they give other states."""
    return TextFiles(
        suffix=family.latents.text_cache_suffix,
        first_width=models.text_encoders[0].config.hidden_size,
        token_length=text.token_count(args.max_token_length) + 2,
        encoders_id=encoders_identity(models.text_encoders) + (" weighted" if args.weighted_captions else ""),
        skip_check=args.skip_cache_check,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def encoders_identity(text_encoders: Sequence[nn.Module]) -> str:
    """A short name for the encoders' weights, from some values of each parameter: merged weights change all of them a little."""
    digest = hashlib.sha256()
    for weight in (weight for text_encoder in text_encoders for weight in all_weights(text_encoder)):
        values = weight.detach().flatten()
        sampled = values[:: max(1, len(values) // VALUES_SAMPLED)].cpu().to(torch.bfloat16)
        digest.update(sampled.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
