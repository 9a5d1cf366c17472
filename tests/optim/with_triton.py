"""Where the optimizers' kernels run in tests: on a GPU if there is one, else in Triton's interpreter."""

import pytest
import torch

from tests.offline import device_of_tests

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NO_TRITON = device_of_tests() == "pretend" or (device_of_tests() == "cuda" and not torch.cuda.is_available())
BY_KERNELS = [
    pytest.mark.gpu,
    pytest.mark.skipif(NO_TRITON, reason="needs a GPU that Triton knows, or its interpreter"),
    pytest.mark.filterwarnings("ignore:invalid value|overflow encountered|All-NaN slice:RuntimeWarning"),
]
