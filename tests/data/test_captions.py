"""Captions: the recorded examples of the reference, and what must hold for any caption."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.data.captions import process_caption
from library.data.subsets import Subset

LETTERS = st.characters(codec="utf-8", exclude_characters=",\n\r")
TAGS = st.lists(st.text(LETTERS, min_size=1).map(str.strip).filter(bool), max_size=12)


def process(caption, seed=1, epoch=1, step=0, max_train_steps=100, **options):
    rng = random.Random(seed)
    subset = Subset(**options)
    return process_caption(caption, subset, rng=rng, epoch=epoch, step=step, max_train_steps=max_train_steps), round(rng.random(), 6)


RECORDED = [
    ("a, b, c, d, e, f", {"shuffle_caption": True, "keep_tokens": 1}, 1, "a, d, e, f, b, c"),
    ("a, b ||| c, d, e ||| f, g", {"shuffle_caption": True, "keep_tokens_separator": "|||"}, 1, "a, b, d, e, c, f, g"),
    ("a, b ||| c, d, e ||| f, g", {"keep_tokens_separator": "|||"}, 1, "a, b ||| c, d, e ||| f, g"),
    ("a,, b, ", {"caption_tag_dropout_rate": 0.0001}, 1, "a, , b, "),
    ("x {a|b|c} {{k}} {} {only}", {"enable_wildcard": True}, 2, "x a {k} {} only"),
    ("{a|{b|c}}", {"enable_wildcard": True}, 1, "{a|{b|c}"),
    ("a;;;b, c", {"secondary_separator": ";;;", "shuffle_caption": True}, 1, "c, a,b"),
    ("a;b;c", {"caption_separator": ";", "shuffle_caption": True}, 1, "b, c, a"),
]


@pytest.mark.parametrize(("caption", "options", "seed", "expected"), RECORDED)
def test_recorded_captions_come_out_the_same(caption, options, seed, expected):
    assert process(caption, seed, **options)[0] == expected


def test_a_shuffle_leaves_the_generator_where_the_reference_does():
    assert process("a, b, c, d, e, f", shuffle_caption=True, keep_tokens=1)[1] == 0.495435


def test_drop_out_shuffle_and_tag_drop_out_draw_in_the_recorded_order():
    options = {"shuffle_caption": True, "keep_tokens": 1, "caption_tag_dropout_rate": 0.3, "caption_dropout_rate": 0.1}
    assert process("a, b, c, d, e, f", **options) == ("a, e, c, f, b", 0.893317)


def test_warm_up_shows_the_recorded_number_of_tags():
    assert process("a, b, c, d, e, f, g, h, i, j", step=5, token_warmup_step=0.2, token_warmup_min=2)[0] == "a, b, c, d"


def test_warm_up_is_over_at_its_last_step():
    assert process("a, b, c", step=20, token_warmup_step=20)[0] == "a, b, c"


def test_a_warm_up_too_short_for_one_step_changes_nothing():
    assert process("a,b", max_train_steps=0, token_warmup_step=0.5)[0] == "a,b"


def test_prefix_and_suffix_are_joined_with_a_blank():
    assert process("cat", caption_prefix="photo,", caption_suffix="end")[0] == "photo, cat end"


def test_without_wildcards_only_the_first_line_is_used():
    assert process("one\ntwo", caption_suffix="end")[0] == "one"


def test_with_wildcards_each_line_is_met():
    assert {process("one\ntwo", seed, enable_wildcard=True)[0] for seed in range(20)} == {"one", "two"}


def test_a_wildcard_of_one_alternative_draws_all_the_same():
    assert process("{only}", enable_wildcard=True)[1] != round(random.Random(1).random(), 6)


def test_captions_are_dropped_in_every_second_epoch():
    dropped = [process("cat", epoch=epoch, caption_dropout_every_n_epochs=2, caption_prefix="p")[0] for epoch in (1, 2, 3, 4)]
    assert dropped == ["p cat", "", "p cat", ""]


def test_a_drop_out_rate_of_one_drops_everything():
    assert process("cat", caption_dropout_rate=1.0, caption_prefix="p", caption_suffix="s")[0] == ""


@given(st.text())
def test_without_options_a_single_line_stays_as_it_is_and_nothing_is_drawn(caption):
    line = caption.split("\n")[0]
    assert process(line) == (line, round(random.Random(1).random(), 6))


@given(TAGS, st.integers(0, 5), st.integers())
def test_shuffling_keeps_all_tags_and_the_first_ones_in_place(tags, keep, seed):
    out = process(",".join(tags), seed, shuffle_caption=True, keep_tokens=keep)[0].split(", ")
    assert out[:keep] == (tags or [""])[:keep] and Counter(out) == Counter(tags or [""])


@given(TAGS, TAGS, TAGS, st.integers())
def test_tags_fixed_by_separators_are_never_dropped_nor_moved(front, middle, tail, seed):
    text = "<>".join(",".join(tag.replace("<", "").replace(">", "").strip() or "x" for tag in part) for part in (front, middle, tail))
    fixed = [[tag.strip() for tag in part.split(",") if tag.strip()] for part in text.split("<>")]
    options = {"shuffle_caption": True, "caption_tag_dropout_rate": 1.0, "keep_tokens_separator": "<>"}
    assert process(text, seed, **options)[0] == ", ".join(fixed[0] + fixed[2])


@given(TAGS, st.integers(0, 30), st.integers(1, 30))
def test_warm_up_shows_the_first_tags_in_order(tags, step, warmup):
    out = process(",".join(tags), step=step, token_warmup_step=warmup)[0]
    assert ", ".join(tags or [""]).startswith(out)
