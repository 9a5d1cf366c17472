import importlib.util
import subprocess
import sys
from pathlib import Path

from library.light_start import UNUSED, leave_unused_packages_out

ROOT = Path(__file__).parents[1]
TRAINING = """
from library.light_start import leave_unused_packages_out
leave_unused_packages_out()
import library.models.sd, library.training.network_recipe, sys
print([name for name in {unused} if name in sys.modules], library.models.sd.UNet2DConditionModel.__name__)
"""


def test_training_imports_no_package_it_does_not_use():
    program = TRAINING.format(unused=UNUSED)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] UNet2DConditionModel"


def test_a_process_that_has_diffusers_keeps_what_it_has():
    diffusers, find_spec = importlib.import_module("diffusers"), importlib.util.find_spec
    leave_unused_packages_out()
    assert importlib.util.find_spec is find_spec
    assert importlib.import_module("diffusers") is diffusers
