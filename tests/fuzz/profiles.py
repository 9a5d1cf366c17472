"""How many examples the tests of this folder try.

Normally a few hundred in all, the same ones every time, in some seconds. For a long search, with other examples each time:

    HYPOTHESIS_PROFILE=long pytest tests/fuzz
"""

import os
from collections.abc import Callable
from datetime import timedelta

from hypothesis import HealthCheck, settings

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
HANGS = timedelta(seconds=60)
"""What one example may take at most, on a machine that does other things too."""


def examples(count: int) -> Callable:
    """Settings of one test. A failing example of a long search is printed in a form that can be added with @example."""
    return settings(
        max_examples=20000 if LONG else count,
        derandomize=not LONG,
        database=None,
        deadline=HANGS,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
