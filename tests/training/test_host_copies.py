"""Values that are sent to the host when they are made and read later."""

import torch

from library.training.host_copies import HostCopy


def test_what_is_read_later_is_what_was_sent():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    sent = HostCopy(value)
    with torch.no_grad():
        value.add_(1)
    assert sent.read().tolist() == [1.0, 2.0] and not sent.read().requires_grad
