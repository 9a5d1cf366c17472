"""Start-up without packages that training does not use.

diffusers imports bitsandbytes and peft, and with them torch's compiler, wherever they are installed: for quantised models and for its own
LoRA loaders. Training uses neither; optimizers of bitsandbytes are imported by their own name when they are chosen.
"""

import importlib
import importlib.util
import sys

UNUSED = ("bitsandbytes", "peft")


def leave_unused_packages_out() -> None:
    """Has diffusers, if it is not imported yet, take UNUSED packages as not installed. For processes that train and then end."""
    if "diffusers" in sys.modules:
        return
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name in UNUSED else find_spec(name, package)
    try:
        importlib.import_module("diffusers.utils")  # looks once for what is installed
    finally:
        importlib.util.find_spec = find_spec
