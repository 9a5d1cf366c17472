"""Which subsets change images or captions at random, so that what is made of them cannot be cached. Without torch."""

from collections.abc import Iterable, Sequence

from library.data.nothing_found import subset_name
from library.data.subsets import Subset


class Cacheable:
    """Something made of subsets, which tells in lines why latents or text encoder outputs of it cannot be cached."""

    subsets: Sequence[Subset]

    def latents_cacheable(self) -> list[str]:
        return changing_images(self.subsets)

    def text_states_cacheable(self, variants: bool = False) -> list[str]:
        return changing_captions(self.subsets, variants)


def changing_images(subsets: Iterable[Subset]) -> list[str]:
    """Why latents cannot be cached: one line for each subset and option that changes images at random."""
    return _lines(subsets, ("color_aug", "random_crop"), "changes the image each time: turn it off or do not cache latents")


def changing_captions(subsets: Iterable[Subset], variants: bool = False) -> list[str]:
    """Why text encoder outputs cannot be cached: one line for each subset and option that changes captions at random.

    variants: several variants of each caption are cached, then only what follows the global step is in the way.
    """
    if variants:
        reason = "changes the caption with the step: turn it off or do not cache text encoder outputs"
        return _lines(subsets, ("token_warmup_step",), reason)
    options = ("caption_dropout_rate", "shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate")
    advice = "turn it off, do not cache text encoder outputs, or cache several of each with --text_encoder_cache_variants"
    return _lines(subsets, options, f"changes the caption each time: {advice}")


def captions_are_static(subsets: Iterable[Subset]) -> bool:
    """Whether each image has the same caption whenever it is used."""
    subsets = list(subsets)
    return not changing_captions(subsets) and not _lines(subsets, ("enable_wildcard", "caption_dropout_every_n_epochs"), "")


def _lines(subsets: Iterable[Subset], options: tuple[str, ...], reason: str) -> list[str]:
    return [f"--{option} in {subset_name(subset)} {reason}" for subset in subsets for option in options if getattr(subset, option)]
