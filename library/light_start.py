"""Start-up without packages that training does not use.

diffusers imports bitsandbytes and peft, and with them torch's compiler, wherever they are installed: for quantised models and for its own
LoRA loaders. Training uses neither; optimizers of bitsandbytes are imported by their own name when they are chosen. scipy, which diffusers
and transformers import for a sampler and for losses of other models, takes a sixth of the start. Another seventh goes into looking for
garbage among what the imports make, nearly all of which stays.
"""

import gc
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("bitsandbytes", "peft")
FOR_SAMPLERS = ("scipy",)


def leave_unused_packages_out(*, previews: bool = True) -> None:
    """Has diffusers, if it is not imported yet, take unused packages as not installed. For processes that train and then end.

    previews: pictures may be drawn, so what samplers need stays.
    """
    if "diffusers" in sys.modules:
        return
    unused = UNUSED if previews else UNUSED + FOR_SAMPLERS
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name in unused else find_spec(name, package)
    try:
        importlib.import_module("diffusers.utils")  # looks once for what is installed
        if not previews:
            importlib.import_module("transformers.utils").is_scipy_available()  # and this remembers what it found
    finally:
        importlib.util.find_spec = find_spec


@contextmanager
def imports_without_collecting() -> Iterator[None]:
    """Python's garbage collector rests in the body; afterwards it passes over all that is there, so that it stops the training less."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
