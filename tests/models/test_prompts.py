"""Prompts of pictures: length, weights, and the mean they keep."""

import pytest
import torch

from library.models.prompts import encode_prompts, prompt_tokens
from tests.models.conftest import FAMILIES


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("words", "chunks"), [(0, 1), (75, 1), (76, 2), (150, 2), (151, 3), (400, 3)])
def test_a_prompt_takes_as_many_chunks_as_it_needs(kind, words, chunks):
    family = FAMILIES[kind]
    ids, weights = prompt_tokens(family, ["cat " * words, "dog"])
    expected_ids, expected_weights = family.tokenize_weighted(["cat " * words, "dog"], tokens=75 * chunks)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(ids, expected_ids, strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, expected_weights, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_weights_keep_each_prompts_mean(layouts, kind):
    family = FAMILIES[kind]
    encoders = family.load(str(layouts(kind).folder)).text_encoders
    plain, strong, other = (encode_prompts(family, encoders, prompt_tokens(family, [text])) for text in ("a cat", "a (cat:1.5)", "a dog"))
    means = [states["prompt_embeds"].mean() for states in (plain, strong, other)]
    assert not torch.equal(plain["prompt_embeds"], strong["prompt_embeds"])
    torch.testing.assert_close(means[1], means[0])
    assert (means[2] - means[0]).abs() > 100 * (means[1] - means[0]).abs()
