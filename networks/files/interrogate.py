"""Which words an adapter changes: each token alone through the text encoder, without the adapter and with it."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from library.models.sd import SD
from library.models.text import skipped_states
from library.models.tokenizer import ClipTokenizer
from library.saving.weights import load_tensors
from networks.lora import create_network_from_weights

logger = logging.getLogger(__name__)

SHOWN = 100


def changed_words(
    sd_model: str | None, adapter: str | None, *, v2: bool, batch_size: int, clip_skip: int | None, shown: int = SHOWN
) -> list[tuple[str, float]]:
    """(word, mean absolute change of its states) of the words that change most, the most changed first.

    Raises ValueError if an option is missing or the adapter has no part for the text encoder.
    """
    for option, value in (("--sd_model", sd_model), ("--model", adapter)):
        if not value:
            raise ValueError(f"{option} is missing: name the file")
    weights = load_tensors(adapter)
    if not any(key.startswith("lora_te") for key in weights):
        raise ValueError(f"--model {adapter} has no modules for the text encoder, so no word changes")
    family = SD(v2=v2, clip_skip=clip_skip)
    models = family.load(sd_model)
    text_encoder, tokenizer = models.text_encoders[0], family.tokenizer
    count = words_known(text_encoder, tokenizer)
    before = torch.cat(list(states_of(text_encoder, range(count), tokenizer, clip_skip, batch_size)))
    network, weights = create_network_from_weights(1.0, adapter, None, text_encoder, models.unet, weights_sd=weights)
    network.apply_to(text_encoder, models.unet, True, False)
    network.load_state_dict(weights, strict=False)
    after = states_of(text_encoder, range(count), tokenizer, clip_skip, batch_size)
    changes: list[Tensor] = []
    for number, states in enumerate(after):
        start = number * batch_size
        changes.append((states - before[start : start + len(states)]).abs().flatten(1).mean(1))
    values, ids = torch.cat(changes).topk(min(shown, count))
    words = tokenizer.hf_tokenizer.convert_ids_to_tokens(ids.tolist())
    return list(zip(words, values.tolist(), strict=True))


def words_known(text_encoder: nn.Module, tokenizer: ClipTokenizer) -> int:
    """How many ids both have."""
    return min(text_encoder.get_input_embeddings().num_embeddings, len(tokenizer.hf_tokenizer))


@torch.no_grad()
def states_of(text_encoder: nn.Module, ids: range, tokenizer: ClipTokenizer, clip_skip: int | None, batch_size: int) -> Iterator[Tensor]:
    """States (B, 3, D) of [start, id, end] for each id, in batches."""
    for start in range(0, len(ids), batch_size):
        batch = [[[tokenizer.start_id, one, tokenizer.end_id]] for one in ids[start : start + batch_size]]
        yield skipped_states(text_encoder, torch.tensor(batch), clip_skip)
