"""Rotations by Cayley's formula, of which OFT (arXiv:2306.07280) is made. Pure mathematics: the tools for files need no model for it."""

import torch
from torch import Tensor

EPSILON = 1e-8


def cayley_turn(blocks: Tensor, limit: float) -> Tensor:
    """R - I for R = (I + Q) (I - Q)^-1, Q = blocks - blocksᵀ, with the norm of Q over all blocks held within `limit`."""
    skew = blocks - blocks.mT
    norm = skew.norm()
    skew = skew * ((norm.clamp(max=limit) + EPSILON) / (norm + EPSILON))
    eye = torch.eye(skew.shape[-1], device=skew.device)
    solved, _ = torch.linalg.solve_ex(eye - skew, eye + skew, left=False)  # `solve` waits for the device; I - Q is never singular
    return solved - eye
