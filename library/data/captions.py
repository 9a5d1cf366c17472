"""What the text encoder is told about an image: prefix and suffix, drop-out, wildcards, shuffling of tags.

Pure functions on text. All chance comes from `rng` (the module `random` or a `random.Random`), in a fixed order of draws.
"""

import math
import re
from typing import Any

from library.data.subsets import Subset

WILDCARD = re.compile(r"\{([^}]+)\}")
OPENING, CLOSING = "\ufdd0", "\ufdd1"      # stand for {{ and }}; Unicode reserves them, no text holds them


def process_caption(caption: str, subset: Subset, *, rng: Any, epoch: int, step: int, max_train_steps: int) -> str:
    """The caption as trained on this time. A dropped caption is "".

    epoch: 1-based. step: optimizer steps done, for the tag warm-up. rng: has random(), choice() and shuffle().
    """
    if subset.caption_prefix:
        caption = f"{subset.caption_prefix} {caption}"
    if subset.caption_suffix:
        caption = f"{caption} {subset.caption_suffix}"
    if is_dropped(subset, rng, epoch):
        return ""
    caption = _with_choices(caption, rng) if subset.enable_wildcard else caption.split("\n", 1)[0]
    warmup_steps = _warmup_steps(subset.token_warmup_step, max_train_steps)
    if subset.shuffle_caption or warmup_steps > 0 or subset.caption_tag_dropout_rate > 0:
        caption = _with_tags_changed(caption, subset, rng, step, warmup_steps)
    if subset.secondary_separator:
        caption = caption.replace(subset.secondary_separator, subset.caption_separator)
    return caption


def is_dropped(subset: Subset, rng: Any, epoch: int) -> bool:
    """Whether the caption is left out this time; one draw if there is a rate."""
    if subset.caption_dropout_rate > 0 and rng.random() < subset.caption_dropout_rate:
        return True
    every = subset.caption_dropout_every_n_epochs
    return every > 0 and epoch % every == 0


def _with_choices(caption: str, rng: Any) -> str:
    """One line of several, then one alternative of each {a|b}, from left to right; {{ and }} are plain braces."""
    if "\n" in caption:
        caption = rng.choice(caption.split("\n"))
    caption = caption.replace("{{", OPENING).replace("}}", CLOSING)
    caption = WILDCARD.sub(lambda match: rng.choice(match[1].split("|")), caption)
    return caption.replace(OPENING, "{").replace(CLOSING, "}")


def _warmup_steps(token_warmup_step: float, max_train_steps: int) -> float:
    """Steps until all tags are in use; below 1 the option is a share of the whole training."""
    return math.floor(token_warmup_step * max_train_steps) if token_warmup_step < 1 else token_warmup_step


def _with_tags_changed(caption: str, subset: Subset, rng: Any, step: int, warmup_steps: float) -> str:
    """Fixed tags, then the others cut by warm-up, shuffled and thinned, then the fixed tail, joined with ", "."""
    fixed, flexible, tail = split_tags(caption, subset)
    if step < warmup_steps:
        least = subset.token_warmup_min
        flexible = flexible[: math.floor(step * (len(flexible) - least) / warmup_steps) + least]
    if subset.shuffle_caption:
        rng.shuffle(flexible)
    if subset.caption_tag_dropout_rate > 0:
        flexible = [tag for tag in flexible if rng.random() >= subset.caption_tag_dropout_rate]
    return ", ".join(fixed + flexible + tail)


def split_tags(caption: str, subset: Subset) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in place at the front, tags that may move or go, tags that stay at the end.

    Text before the first keep_tokens_separator is fixed, text after a second one too, and empty tags vanish.
    Without that separator in the caption the first `keep_tokens` tags are fixed, and empty tags count.
    """
    separator = subset.keep_tokens_separator
    if separator and separator in caption:
        parts = caption.split(separator, 2)
        fixed, flexible, tail = ([tag for tag in _tags(part, subset) if tag] for part in [*parts, ""][:3])
        return fixed, flexible, tail
    tags = _tags(caption, subset)
    keep = max(subset.keep_tokens, 0)
    return tags[:keep], tags[keep:], []


def _tags(text: str, subset: Subset) -> list[str]:
    return [tag.strip() for tag in text.strip().split(subset.caption_separator)]
