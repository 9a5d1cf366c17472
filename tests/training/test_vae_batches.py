"""How many images the VAE encodes at once."""

import pytest
import torch

from library.training.vae_batches import EncodeInParts, fitting, vae_batch_size

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "pixels", "itemsize", "expected"),
    [(80 * GIB, 1024**2, 2, 8), (7 * GIB, 1024**2, 2, 3), (7 * GIB, 1024**2, 4, 1), (0, 512**2, 2, 1)],
)
def test_as_many_as_fit_but_no_more_than_eight(free, pixels, itemsize, expected):
    assert fitting(free, pixels, itemsize) == expected


def test_a_number_asked_for_is_taken_and_the_processor_gets_one():
    cpu = torch.device("cpu")
    assert vae_batch_size(5, 512**2, torch.float16, torch.device("cuda"), strict_compat=False) == 5
    assert vae_batch_size(1, 512**2, torch.float16, torch.device("cuda"), strict_compat=True) == 1
    assert vae_batch_size(1, 512**2, torch.float16, cpu, strict_compat=False) == 1


def test_parts_are_halved_until_they_fit_and_stay_so(caplog):
    sizes = []

    def encode(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("no memory")
        return pixels[:, :1]

    in_parts = EncodeInParts(encode, 8)
    pixels = torch.arange(14.0).view(7, 2, 1, 1)
    assert torch.equal(in_parts(pixels), pixels[:, :1]) and torch.equal(in_parts(pixels[:3]), pixels[:3, :1])
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert caplog.text.count("too little memory") == 2


def test_one_image_that_does_not_fit_is_an_error():
    def encode(pixels):
        raise torch.cuda.OutOfMemoryError("no memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        EncodeInParts(encode, 2)(torch.zeros(2, 3, 8, 8))
