"""Runs killed while they cache, train and save are taken up again and end with the bytes of one that was never interrupted.

The same with many kills: python tests/kill_run.py --kills 40
"""

import os

import pytest
import torch

from tests import kill_run
from tests.tiny_runs import small_run

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows, and each start anew would take half a minute"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a process that may have used a GPU cannot be forked"),
]


def test_three_kills_lose_nothing(tiny_models, tmp_path, models_loaded_once):
    workplace = kill_run.Workplace(tmp_path, tiny_models("sd1"))
    place = workplace.place("warm-up")  # so that the forked ones find models and tokenizers read
    small_run(workplace.model, place / "data", place / "out", *workplace.options, "--sample_prompts", str(place / "prompts.txt"))
    whole = kill_run.Whole(workplace)
    tally = kill_run.killed(workplace, whole, 3, 5, (kill_run.CACHING, kill_run.STATE, kill_run.TRAINING), per_run=3)
    assert sum(tally.kills.values()) == 3 and tally.files > 20
    assert not tally.broken and not tally.lost
