"""Text states against direct calls of the encoders."""

import pytest
import torch

from library.models import text
from library.models.sd import SD
from library.models.sdxl import SDXL
from library.models.tokenizer import CLIP_L, OPENCLIP_H, load_tokenizer
from tests.models.conftest import FAMILIES

LONG = ", ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def sd(request, layouts):
    family = FAMILIES[request.param]
    return family, family.load(str(layouts(request.param).folder)).text_encoders


@pytest.fixture(scope="module")
def sdxl_encoders(layouts):
    return FAMILIES["sdxl"].load(str(layouts("sdxl").folder)).text_encoders


@torch.no_grad()
def test_sd_states_are_the_encoders_output(sd):
    family, encoders = sd
    ids = family.tokenize(["a cat", "two dogs"])
    assert torch.equal(family.encode_text(encoders, ids)["prompt_embeds"], encoders[0](ids[0][:, 0]).last_hidden_state)


@torch.no_grad()
def test_clip_skip_takes_an_earlier_layer_under_the_final_norm(sd):
    _, encoders = sd
    ids = FAMILIES["sd1"].tokenize(["a cat"])
    layers = encoders[0](ids[0][:, 0], output_hidden_states=True).hidden_states
    expected = text.clip_core(encoders[0]).final_layer_norm(layers[-2])
    assert torch.equal(SD(clip_skip=2).encode_text(encoders, ids)["prompt_embeds"], expected)


@torch.no_grad()
def test_clip_skip_1_is_the_last_layer(sd):
    _, encoders = sd
    ids = FAMILIES["sd1"].tokenize(["a cat"])
    same = [SD(clip_skip=skip).encode_text(encoders, ids)["prompt_embeds"] for skip in (None, 1)]
    torch.testing.assert_close(*same)


def test_a_clip_skip_deeper_than_the_encoder_is_refused(sd):
    _, encoders = sd
    with pytest.raises(ValueError, match="--clip_skip must be from 1 to 5"):
        SD(clip_skip=9).encode_text(encoders, FAMILIES["sd1"].tokenize(["a cat"]))


def test_a_clip_skip_of_0_is_refused_at_once():
    with pytest.raises(ValueError, match="--clip_skip"):
        SD(clip_skip=0)


@torch.no_grad()
def test_long_captions_join_the_inner_positions_of_their_chunks(sd):
    _, encoders = sd
    family = SD(max_token_length=225)
    ids = family.tokenize([LONG, "short"])
    assert ids[0].shape == (2, 3, 77)
    states = family.encode_text(encoders, ids)["prompt_embeds"]
    chunks = [encoders[0](ids[0][:, k]).last_hidden_state for k in range(3)]
    expected = torch.cat([chunks[0][:, :1], *(chunk[:, 1:76] for chunk in chunks), chunks[2][:, -1:]], dim=1)
    assert states.shape[1] == 227
    torch.testing.assert_close(states, expected)


@torch.no_grad()
def test_weights_multiply_the_states_of_their_tokens(sd):
    family, encoders = sd
    ids, weights = family.tokenize_weighted(["a (cat:1.5) [dog]"])
    plain, changed = family.encode_text(encoders, ids), family.encode_text(encoders, ids, weights)
    expected = plain["prompt_embeds"] * torch.tensor([1, 1, 1.5, 1 / 1.1, *[1] * 73])[None, :, None]
    torch.testing.assert_close(changed["prompt_embeds"], expected)


@torch.no_grad()
@pytest.mark.parametrize("length", [None, 150])
def test_sdxl_puts_both_encoders_side_by_side_and_pools_the_first_chunk(sdxl_encoders, length):
    family = SDXL(max_token_length=length)
    ids = family.tokenize([LONG, "short"])
    states = family.encode_text(sdxl_encoders, ids)
    first = sdxl_encoders[0](ids[0][:, 0], output_hidden_states=True).hidden_states[11]
    second = sdxl_encoders[1](ids[1][:, 0], output_hidden_states=True)
    torch.testing.assert_close(states["prompt_embeds"][:, :76, :32], first[:, :76])
    torch.testing.assert_close(states["prompt_embeds"][:, :76, 32:], second.hidden_states[-2][:, :76])
    ends = (ids[1][:, 0] == 49407).int().argmax(dim=1)
    pooled = second.last_hidden_state[range(2), ends] @ sdxl_encoders[1].text_projection.weight.T
    torch.testing.assert_close(states["pooled_prompt_embeds"], pooled)


def test_pooling_without_an_end_marker_takes_position_0():
    states = torch.arange(2 * 77.0).reshape(1, 77, 2)
    encoder = torch.nn.Module()
    encoder.text_projection = torch.nn.Identity()
    assert text.pooled_states(encoder, states, torch.zeros(1, 77, dtype=torch.int64), 49407).tolist() == [[0.0, 1.0]]


def test_a_full_chunk_of_sd2_is_ended_and_an_empty_one_too():
    tokenizer = load_tokenizer(OPENCLIP_H)
    full, empty = text.chunked(text.framed([320] * 75, tokenizer, 150), tokenizer)
    assert full == [49406, *[320] * 75, 49407]
    assert empty == [49406, 49407, *[0] * 75]


def test_chunks_of_sd1_need_no_mending():
    tokenizer = load_tokenizer(CLIP_L)
    full, empty = text.chunked(text.framed([320] * 80, tokenizer, 150), tokenizer)
    assert full == [49406, *[320] * 75, 49407]
    assert empty == [49406, *[320] * 5, *[49407] * 71]


def test_a_weighted_caption_that_is_too_long_is_cut_with_a_warning(caplog):
    ids, weights = text.weighted_token_chunks(["(cat:1.2) " * 90], load_tokenizer(CLIP_L), 75)
    assert ids.shape == (1, 1, 77) and weights.shape == (1, 77)
    assert "--max_token_length" in caplog.text
