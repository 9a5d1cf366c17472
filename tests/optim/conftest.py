import pytest

from library.kernels import triton_here


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton", reason="the kernels need the package triton")
    from library.optim.triton_steps import STEPS

    return STEPS


@pytest.fixture
def launches(kernels, monkeypatch):
    """The kernels that were launched, by name."""
    names, launch = [], kernels.launch
    monkeypatch.setattr(kernels, "launch", lambda name, *rest: (names.append(name), launch(name, *rest))[1])
    return names


@pytest.fixture
def on_this_device(monkeypatch):
    monkeypatch.setattr(triton_here, "may_run", lambda device, dtype: True)
