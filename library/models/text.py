"""Captions to text states for CLIP text encoders: chunks of 77 ids, weights, hidden states and how chunks are joined.

CLIP reads 77 positions: a start marker, 75 tokens, an end marker. Longer captions (150, 225 tokens) become 2 or 3 chunks
that are encoded one by one; their states are joined to one sequence of 75 * chunks + 2 positions.
"""

import logging

import torch
from torch import Tensor, nn

from library.models.prompt_weights import parse_weights
from library.models.tokenizer import ClipTokenizer

logger = logging.getLogger(__name__)

CHUNK_TOKENS = 75
CHUNK_LENGTH = CHUNK_TOKENS + 2


def token_count(max_token_length: int | None) -> int:
    """Tokens per caption, without the two markers. Raises ValueError unless --max_token_length is 75, 150 or 225 (or absent)."""
    count = max_token_length or CHUNK_TOKENS
    if count not in (75, 150, 225):
        raise ValueError(f"--max_token_length must be 75, 150 or 225, got {max_token_length}")
    return count


def framed(ids: list[int], tokenizer: ClipTokenizer, tokens: int) -> list[int]:
    """`tokens` + 2 ids: the start marker, at most `tokens` ids, the end marker, padding."""
    ids = [tokenizer.start_id, *ids[:tokens], tokenizer.end_id]
    return ids + [tokenizer.pad_id] * (tokens + 2 - len(ids))


def chunked(framed_ids: list[int], tokenizer: ClipTokenizer) -> list[list[int]]:
    """Cuts framed ids into chunks of 77, each between the sequence's own first and last id.

    Encoders that pad with another id than the end marker expect each chunk to be ended: a full one gets the marker in its
    last place, an empty one right behind the start.
    """
    first, last = framed_ids[0], framed_ids[-1]
    starts = range(1, len(framed_ids) - 1, CHUNK_TOKENS)
    chunks = [[first, *framed_ids[start : start + CHUNK_TOKENS], last] for start in starts]
    if tokenizer.pad_id != tokenizer.end_id and len(chunks) > 1:
        for chunk in chunks:
            if chunk[-2] not in (tokenizer.end_id, tokenizer.pad_id):
                chunk[-1] = tokenizer.end_id
            if chunk[1] == tokenizer.pad_id:
                chunk[1] = tokenizer.end_id
    return chunks


def token_chunks(captions: list[str], tokenizer: ClipTokenizer, tokens: int) -> Tensor:
    """(B, tokens / 75, 77) int64; what is longer than `tokens` is cut off."""
    return torch.tensor([chunked(framed(tokenizer.ids(caption), tokenizer, tokens), tokenizer) for caption in captions])


def weighted_token_chunks(captions: list[str], tokenizer: ClipTokenizer, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids (B, tokens / 75, 77) and weights (B, tokens + 2) of captions with (weights:1.2).

    Each fragment of equal weight is tokenized by itself, so a bracket inside a word changes its ids. Markers and padding
    have the weight 1. Raises ValueError for a malformed weight.
    """
    all_chunks, all_weights = [], []
    for caption in captions:
        ids: list[int] = []
        weights: list[float] = []
        for fragment, weight in parse_weights(caption):
            fragment_ids = tokenizer.ids(fragment)
            ids += fragment_ids
            weights += [weight] * len(fragment_ids)
        if len(ids) > tokens:
            logger.warning("caption cut from %d to %d tokens (--max_token_length): %s", len(ids), tokens, caption)
        all_chunks.append(chunked(framed(ids, tokenizer, tokens), tokenizer))
        weights = [1.0, *weights[:tokens]]
        all_weights.append(weights + [1.0] * (tokens + 2 - len(weights)))
    return torch.tensor(all_chunks), torch.tensor(all_weights)


def clip_core(text_encoder: nn.Module) -> nn.Module:
    """The module that holds `encoder` and `final_layer_norm`; some transformers versions put a `text_model` around it."""
    return getattr(text_encoder, "text_model", text_encoder)


def hidden_states(text_encoder: nn.Module, chunks: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Runs (B, n, 77) ids chunk by chunk: all layers' states and the normalised last one, each (B * n, 77, D)."""
    output = text_encoder(chunks.reshape(-1, chunks.shape[-1]).to(text_encoder.device), output_hidden_states=True, return_dict=True)
    return output.hidden_states, output.last_hidden_state


def skipped_states(text_encoder: nn.Module, chunks: Tensor, clip_skip: int | None) -> Tensor:
    """(B * n, 77, D): the encoder's output, or the state `clip_skip` layers from its end (1 is the last) under the final norm."""
    layers, last = hidden_states(text_encoder, chunks)
    if clip_skip is None:
        return last
    if not 1 <= clip_skip <= len(layers):
        raise ValueError(f"--clip_skip must be from 1 to {len(layers)} for this text encoder, got {clip_skip}")
    return clip_core(text_encoder).final_layer_norm(layers[-clip_skip])


def pooled_states(text_encoder: nn.Module, last_hidden_state: Tensor, ids: Tensor, end_id: int) -> Tensor:
    """(B, D): the projected state at each row's first end marker, at position 0 where there is none.

    last_hidden_state: (B, 77, D) under the final norm. ids: (B, 77).
    """
    positions = (ids == end_id).int().argmax(dim=-1).to(last_hidden_state.device)
    rows = torch.arange(len(ids), device=last_hidden_state.device)
    return text_encoder.text_projection(last_hidden_state[rows, positions]).to(last_hidden_state.dtype)


def joined(states: Tensor, chunks: int) -> Tensor:
    """(B * chunks, 77, D) -> (B, 75 * chunks + 2, D): the first position, the 75 inner ones of every chunk, the very last."""
    if chunks == 1:
        return states
    states = states.unflatten(0, (-1, chunks))
    inner = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], inner, states[:, -1, -1:]], dim=1)


def weighted(states: Tensor, token_weights: Tensor | None, restore_mean: bool = False) -> Tensor:
    """States (B, L, D) times the weights (B, L) of their tokens.

    restore_mean: then times what gives each sample the mean it had before, as web UIs do when they draw pictures.
    """
    if token_weights is None:
        return states
    result = states * token_weights.to(states.device, states.dtype).unsqueeze(-1)
    if restore_mean:
        before, after = (values.float().mean(dim=(1, 2), keepdim=True) for values in (states, result))
        result = result * (before / after).to(states.dtype)
    return result
