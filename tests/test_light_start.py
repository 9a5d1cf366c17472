import gc
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from library.light_start import FOR_SAMPLERS, UNUSED, imports_without_collecting, leave_unused_packages_out

ROOT = Path(__file__).parents[1]
TRAINING = """
from library.light_start import leave_unused_packages_out
leave_unused_packages_out(previews={previews})
import library.models.sd, library.training.network_recipe, sys
print([name for name in {unused} if name in sys.modules], library.models.sd.UNet2DConditionModel.__name__)
"""


def told_by(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def test_training_imports_no_package_it_does_not_use():
    assert told_by(TRAINING.format(unused=UNUSED + FOR_SAMPLERS, previews=False)) == "[] UNet2DConditionModel"


def test_previews_keep_what_their_samplers_need():
    pytest.importorskip("scipy")
    sampler = "\nfrom library.models.samplers import make_sampler; make_sampler('lms', 'epsilon')"
    assert told_by(TRAINING.format(unused=UNUSED, previews=True) + sampler) == "[] UNet2DConditionModel"


def test_a_process_that_has_diffusers_keeps_what_it_has():
    diffusers, find_spec = importlib.import_module("diffusers"), importlib.util.find_spec
    leave_unused_packages_out()
    assert importlib.util.find_spec is find_spec
    assert importlib.import_module("diffusers") is diffusers


def test_imports_are_not_looked_through_for_garbage_then_or_later():
    """Also if one fails."""
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), imports_without_collecting():
        assert not gc.isenabled()
        imported = {"module": []}
        raise ImportError("no such package")
    assert gc.isenabled()
    assert gc.get_freeze_count() > before and not any(held is imported for held in gc.get_objects())
