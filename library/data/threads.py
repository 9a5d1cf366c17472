"""The same small piece of file work for many files, in threads where the disk is slow to answer.

On a fast disk threads only wait for each other (the work is mostly Python), so the first files are timed.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 16
ITEMS_PER_TASK = 64
SLOW = 0.5e-3
"""Seconds per item above which waiting for the disk outweighs the work."""


def map_in_threads(function: Callable[[Any], Any], items: Sequence) -> list:
    """[function(item) for item in items], in the same order."""
    started = time.perf_counter()
    results = [function(item) for item in items[:ITEMS_PER_TASK]]
    rest = items[ITEMS_PER_TASK:]
    if time.perf_counter() - started < SLOW * ITEMS_PER_TASK:
        return results + [function(item) for item in rest]
    parts = [rest[start : start + ITEMS_PER_TASK] for start in range(0, len(rest), ITEMS_PER_TASK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(lambda part: [function(item) for item in part], parts):
            results += part
    return results
