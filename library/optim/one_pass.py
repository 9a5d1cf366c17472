"""Steps of our optimizers over all tensors at once, each number read and written once: what they take and return, whoever computes them.

Triton does on a GPU (triton_steps.py), C on the CPU (cpu_steps.py); the plain torch form of each stands in its optimizer's file.
Arithmetic is fp32. `unless`: a scalar on the device, or None; where it is 1 nothing is written.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Lists = Sequence[Sequence[Tensor | None]]


class OnePass:
    """Steps by name. Lists are of one length; the tensors of one place have one size, or are None, which reads as zeros."""

    def fit(self, *lists: Sequence[Tensor | None]) -> bool:
        """Whether steps can work on these tensors."""
        raise NotImplementedError

    def launch(self, name: str, lists: Lists, unless: Tensor | None, scalars: Tensor, *constants: float) -> Tensor:
        """Runs a step; returns the sums that each piece of the tensors makes, (pieces, 3). scalars: fp32, on the device."""
        raise NotImplementedError

    def lion(self, unless: Tensor | None, lists: Lists, rate: Tensor, betas: Sequence[float], decay: float) -> None:
        """lists: parameters, gradients, exp_avg."""
        self.launch("lion", lists, unless, in_fp32(rate), *betas, decay)

    def dadapt_lion(self, unless: Tensor | None, lists: Lists, step_size: Tensor, betas: Sequence[float], decay: float) -> Tensor:
        """lists: parameters, gradients, exp_avg, s. Returns the sums of update * s, the old one, and of |s|, the new one."""
        return added_up(self.launch("dadapt_lion", lists, unless, in_fp32(step_size), *betas, betas[1] ** 0.5, decay))

    def dadapt_adam_averages(
        self, unless: Tensor | None, lists: Lists, step_size: Tensor, betas: Sequence[float], eps: float, scale: float
    ) -> Tensor:
        """lists: gradients, exp_avg, exp_avg_sq, s. Returns the sums of gradient * s / denominator, the old ones, and of |s|."""
        return added_up(self.launch("dadapt_adam_averages", lists, unless, in_fp32(step_size), *betas, betas[1] ** 0.5, eps, scale))

    def dadapt_preprint_averages(
        self, unless: Tensor | None, lists: Lists, step_size: Tensor, betas: Sequence[float], eps: float
    ) -> Tensor:
        """lists: gradients, exp_avg, exp_avg_sq, s. Returns the sums of new gradient^2 / denominator, s^2 / denominator and |s|."""
        return added_up(self.launch("dadapt_preprint_averages", lists, unless, in_fp32(step_size), *betas, eps), 3)

    def dadapt_adam_move(self, unless: Tensor, lists: Lists, step_size: Tensor, eps: float, decay: float) -> None:
        """lists: parameters, exp_avg, exp_avg_sq."""
        self.launch("dadapt_adam_move", lists, unless, in_fp32(step_size), eps, decay)

    def prodigy_averages(self, unless: Tensor | None, lists: Lists, distance: Tensor, weight: Tensor, betas: Sequence[float]) -> Tensor:
        """lists: parameters, gradients, starting points, exp_avg, exp_avg_sq, s. weight: of the gradients in s. betas: three.

        Returns the sums of gradient * (start - parameter) and of |s|, the new one.
        """
        return added_up(self.launch("prodigy_averages", lists, unless, in_fp32(distance, weight), *betas))

    def prodigy_move(self, unless: Tensor, lists: Lists, step_size: Tensor, eps: Tensor, decay: float) -> None:
        """lists: parameters, exp_avg, exp_avg_sq."""
        self.launch("prodigy_move", lists, unless, in_fp32(step_size, eps), decay)


def added_up(sums: Tensor, count: int = 2) -> Tensor:
    """The first `count` sums of all pieces, (count,) in float64."""
    return sums[:, :count].sum(dim=0, dtype=torch.float64)


def in_fp32(*scalars: Tensor) -> Tensor:
    return torch.stack([scalar.float() for scalar in scalars])


def addresses_of(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where each tensor begins, 0 for None."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
