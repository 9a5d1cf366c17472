"""Pictures for prompts, all at once: DDIM without noise (arXiv:2010.02502) and classifier-free guidance."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from examples.tiny_sd.model_folder import Parts
from examples.tiny_sd.models import SCALE, signal_share
from library.models.tokenizer import CLIP_L, load_tokenizer

LENGTH = 77


def prompt_rows(prompts: list[str]) -> torch.Tensor:
    """Token ids with markers, padded with the end marker: (n, 77)."""
    tokenizer = load_tokenizer(CLIP_L)
    rows = [[tokenizer.start_id, *tokenizer.ids(prompt)[: LENGTH - 2], tokenizer.end_id] for prompt in prompts]
    return torch.tensor([row + [tokenizer.end_id] * (LENGTH - len(row)) for row in rows])


@torch.no_grad()
def draw_prompts(
    parts: Parts, prompts: list[str], seeds: Sequence[int], steps: int = 20, guidance: float = 4.0, size: tuple[int, int] = (64, 64)
) -> np.ndarray:
    """uint8 (n, height, width, 3). seeds: of each picture's noise. size: (width, height)."""
    width, height = size
    noise = [torch.randn(4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents, shares = torch.stack(noise), signal_share()
    context = parts.text_encoder(prompt_rows([*prompts, ""])).last_hidden_state
    wanted, empty = context[:-1], context[-1:].expand(len(prompts), -1, -1)
    timesteps = torch.linspace(999, 0, steps + 1).round().long()
    for now, then in pairwise(timesteps):
        with_prompt = parts.unet(latents, now, wanted).sample
        predicted = with_prompt + (guidance - 1) * (with_prompt - parts.unet(latents, now, empty).sample)
        clean = (latents - (1 - shares[now]).sqrt() * predicted) / shares[now].sqrt()
        latents = shares[then].sqrt() * clean + (1 - shares[then]).sqrt() * predicted
    pictures = parts.vae.decode(latents / SCALE).sample
    return pictures.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
