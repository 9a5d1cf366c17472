"""The layout of an epoch: which images of each bucket make up which batch, and how it is shuffled.

Two ways. By default the layout of an epoch depends on seed and epoch alone, and every image occurs in it exactly as
often as it is repeated. sd-scripts (--strict_compat) shuffles the layout of the epoch before, from the global `random`.
"""

import random
from dataclasses import dataclass

Bucket = tuple[int, int]


@dataclass
class Layout:
    """batches: (bucket number, batch number in that bucket). keys: the images of each bucket, repeats included."""

    batches: list[tuple[int, int]]
    keys: list[list[str]]

    def copy(self) -> "Layout":
        return Layout(list(self.batches), [list(keys) for keys in self.keys])

    def shuffle(self, rng) -> None:
        """First the order of the batches, then the images within each bucket."""
        rng.shuffle(self.batches)
        for keys in self.keys:
            rng.shuffle(keys)

    def batch_keys(self, index: int, batch_size: int) -> list[str]:
        bucket, number = self.batches[index]
        return self.keys[bucket][number * batch_size : (number + 1) * batch_size]


def canonical_layout(bucket_keys: list[list[str]], batch_size: int) -> Layout:
    """Unshuffled; the last batch of a bucket is smaller when its images do not fill it."""
    batches = [(bucket, number) for bucket, keys in enumerate(bucket_keys) for number in range(-(-len(keys) // batch_size))]
    return Layout(batches, [list(keys) for keys in bucket_keys])


class EpochLayouts:
    """Default: a layout for each epoch, made when it is first asked for."""

    def __init__(self, canonical: Layout):
        self.canonical = canonical
        self._made_for: tuple[str, int] | None = None
        self._layout = canonical

    def of(self, seed: str, epoch: int) -> Layout:
        if self._made_for != (seed, epoch):
            self._layout = self.canonical.copy()
            self._layout.shuffle(random.Random(f"layout {seed} {epoch}"))
            self._made_for = (seed, epoch)
        return self._layout


class RunningLayout:
    """strict_compat: one layout, shuffled further at each new epoch with the global `random` seeded by seed + epoch.

    The first shuffle comes before the seed is known and goes by seed 0.
    """

    def __init__(self, canonical: Layout):
        self.layout = canonical.copy()
        self.seed = 0
        self.epoch = 0
        self._started = False

    def start(self, seed: int) -> None:
        if not self._started:
            self._shuffle()
            self._started = True
        self.seed = seed

    def advance(self, epoch: int) -> None:
        """Shuffles once for each epoch since the last one seen; going back only sets the number."""
        while self.epoch < epoch:
            self.epoch += 1
            self._shuffle()
        self.epoch = epoch

    def _shuffle(self) -> None:
        random.seed(self.seed + self.epoch)
        self.layout.shuffle(random)
