"""Prompts of pictures: weighted and long ones become text states, the way web UIs read them."""

import torch
from torch import Tensor, nn

from library.models.family import Family
from library.models.text import CHUNK_TOKENS

MAX_CHUNKS = 3

Tokens = tuple[list[Tensor], list[Tensor]]
"""Ids, (B, chunks, 77) per text encoder, and the weights of their tokens, (B, 75 * chunks + 2) per text encoder."""


def prompt_tokens(family: Family, prompts: list[str]) -> Tokens:
    """In as many chunks as the longest of the prompts needs, up to 225 tokens whatever --max_token_length is.

    A chunk is needed if it is not what an empty prompt has there; what is cut off the end is padding of weight 1.
    Raises ValueError for a weight that is not a number.
    """
    all_ids, all_weights = family.tokenize_weighted([*prompts, ""], tokens=MAX_CHUNKS * CHUNK_TOKENS)
    filled = torch.stack([(ids[:-1] != ids[-1:]).any(dim=2).any(dim=0) for ids in all_ids]).any(dim=0)
    chunks = max([number for number, is_filled in enumerate(filled.tolist(), 1) if is_filled], default=1)
    return [ids[:-1, :chunks] for ids in all_ids], [weights[:-1, : chunks * CHUNK_TOKENS + 2] for weights in all_weights]


def encode_prompts(family: Family, text_encoders: list[nn.Module], tokens: Tokens) -> dict[str, Tensor]:
    """Text states as from `family.encode_text`; weights shift emphasis but leave each prompt's mean as it was."""
    ids, weights = tokens
    return family.encode_text(text_encoders, ids, weights, restore_mean=True)
