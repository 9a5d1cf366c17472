"""A GPU that is none: `TEST_DEVICE=pretend python -m pytest -m gpu tests` runs what is written for CUDA on a machine without a GPU.

It finds tensors on the wrong device, values read by the host, copies read before they arrived, and every call that only a GPU's way
through the code makes. What it cannot tell: speed, streams, CUDA graphs, rounding. Linux, a C++ compiler, torch's build for the CPU.
"""

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

NAME = "pretend_gpu"
LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so")
MEMORY = 24 * 2**30
CAPABILITY = (9, 0)


def install() -> ModuleType:
    """Makes torch.cuda a pretended GPU, and returns the module that counts: host_reads(), allocated(), peak().

    To be called before torch is imported. Raises RuntimeError where it is too late or cannot be compiled.
    """
    if "torch" in sys.modules:
        raise RuntimeError("a GPU can be pretended only before torch is imported")
    library = built()
    folder = Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    for path in (*(folder / name for name in LIBRARIES), library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    import torch

    spec = importlib.util.spec_from_file_location(NAME, library)
    device = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(device)
    stand_ins = _stand_ins(torch, device)
    for name, value in stand_ins.items():
        setattr(torch.cuda, name, value)
    for name in stand_ins.keys() & vars(torch.cuda.random).keys():
        setattr(torch.cuda.random, name, stand_ins[name])
    torch._C._cuda_getCurrentRawStream = lambda index: 0  # bitsandbytes looks for it when it is imported
    return device


def built() -> Path:
    """The compiled library. torch keeps it in the user's cache and compiles it again when its source changes."""
    ninja = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([ninja, os.environ.get("PATH", "")])}
    command = [sys.executable, str(Path(__file__).with_name("build.py"))]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise RuntimeError("the pretended GPU could not be compiled, see above: it needs a C++ compiler and the package ninja")
    return Path(found.stdout.split()[-1])


def _stand_ins(torch: ModuleType, device: ModuleType) -> dict[str, object]:
    """What takes the place of torch.cuda's functions and classes. Its random numbers are the CPU's."""

    class Event:
        def __init__(self, *args, **kwargs):
            pass

        def record(self, stream=None):
            pass

        def wait(self, stream=None):
            pass

        def query(self) -> bool:
            device.arrive()
            return True

        def synchronize(self):
            device.arrive()

    class Stream(contextlib.AbstractContextManager):
        cuda_stream = 0
        device = torch.device("cuda", 0)

        def __init__(self, *args, **kwargs):
            pass

        def wait_stream(self, stream):
            pass

        def wait_event(self, event):
            pass

        def record_event(self, event=None):
            return event or Event()

        def synchronize(self):
            device.arrive()

        def __exit__(self, *fault):
            return None

    class CUDAGraph:
        def __init__(self, *args, **kwargs):
            raise RuntimeError("a pretended GPU records no graphs")

    major, minor = CAPABILITY
    properties = SimpleNamespace(name="a pretended GPU", major=major, minor=minor, total_memory=MEMORY, multi_processor_count=1)
    only = Stream()
    return {
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda index: None,
        "device": lambda index: contextlib.nullcontext(),
        "get_device_properties": lambda index=None: properties,
        "_get_device_properties": lambda index=None: properties,
        "get_device_capability": lambda index=None: CAPABILITY,
        "get_device_name": lambda index=None: properties.name,
        "mem_get_info": lambda index=None: (MEMORY - device.allocated(), MEMORY),
        "memory_allocated": lambda index=None: device.allocated(),
        "memory_reserved": lambda index=None: device.allocated(),
        "max_memory_allocated": lambda index=None: device.peak(),
        "max_memory_reserved": lambda index=None: device.peak(),
        "reset_peak_memory_stats": lambda index=None: device.reset_peak(),
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "synchronize": lambda index=None: device.arrive(),
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "graph_pool_handle": lambda: None,
        "stream": contextlib.nullcontext,
        "current_stream": lambda index=None: only,
        "default_stream": lambda index=None: only,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda index=None: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state": lambda state, index=None: torch.set_rng_state(state),
        "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
    }
