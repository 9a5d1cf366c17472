"""Fixtures shared by all tests: the tiny models, a folder for the whole session, one thread, no network."""

import copy
import functools
import gc
import logging
import os
from pathlib import Path

import pytest

from tests.golden_workshop import Workshop
from tests.offline import go_offline

go_offline()  # before any test file imports torch or transformers
gc.set_threshold(20_000, 10, 10)  # looking for garbage among all that torch and diffusers import takes an eighth of the tests' time

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--golden-dir", type=Path, default=GOLDEN, help="recordings that test_golden.py compares with (default: tests/golden)")
    parser.addoption("--gui-dir", type=Path, help="configurations of the kohya_ss GUI that test_gui_contract.py runs (default: a choice)")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The recordings were made with one thread; more would change the last digits."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def quiet_logging():
    """Warnings of ours stay visible, the chatter of libraries does not."""
    for name in ("accelerate", "diffusers", "transformers", "PIL", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture
def gpu():
    """The GPU of this run of the tests, see tests/offline.py; without one the test is skipped."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: TEST_DEVICE=cuda python -m pytest -m gpu tests")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def root_logger_as_before():
    """Reading a command line sets up logging anew; the next test shall not write to this one's streams."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory) -> Path:
    """One folder for the whole session, the same one in every xdist worker."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def workshop(session_folder, request) -> Workshop:
    """Where golden runs are made; see tests/golden_workshop.py."""
    return Workshop(session_folder, request.config.getoption("golden_dir"))


@pytest.fixture(scope="session")
def tiny_models(session_folder):
    """Call it with "sd1", "sd2" or "sdxl": the folder of that tiny model, built when it is first asked for."""
    return Workshop(session_folder, GOLDEN).model


@functools.cache
def _loading_once(load):
    """A family's `load` that reads each model once in a session and gives copies."""
    once = functools.cache(load)
    return lambda self, path, **options: copy.deepcopy(once(self, path, **options))


@pytest.fixture(scope="module")
def models_loaded_once():
    """For modules with many short runs whose subject is not loading: models and tokenizers are read once."""
    from library.models import sd, sdxl, tokenizer

    load_tokenizer = _loading_tokenizers_once(tokenizer.load_tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        for module, family in ((sd, sd.SD), (sdxl, sdxl.SDXL)):
            patch.setattr(module, "load_tokenizer", load_tokenizer)
            patch.setattr(family, "load", _loading_once(family.load))
        yield


@functools.cache
def _loading_tokenizers_once(load):
    return functools.cache(load)
