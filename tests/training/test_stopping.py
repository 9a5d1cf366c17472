import os
import signal
from types import SimpleNamespace

import pytest
import torch

from library.saving.weights import load_tensors
from library.training import network_recipe, stopping
from library.training.stopping import Stopped, StopRequest
from tests.tiny_runs import picture_folder, small_run


def test_a_signal_notes_the_request_and_a_second_one_is_no_longer_held_back():
    request, asked = StopRequest(), []
    before = signal.getsignal(signal.SIGTERM)
    with request.listening(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert request and asked == [1]
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_on_windows_a_break_asks_as_well_and_a_handler_that_is_not_pythons_is_no_stumbling_block(monkeypatch):
    set_to = {2: "ctrl-c", 15: "term", 21: None}
    windows = SimpleNamespace(SIGINT=2, SIGTERM=15, SIGBREAK=21, SIG_DFL="default", getsignal=set_to.get, signal=set_to.__setitem__)
    monkeypatch.setattr(stopping, "signal", windows)
    request = StopRequest()
    with request.listening(lambda: None):
        set_to[21](21, None)
        assert request.received == 21
    assert set_to == {2: "ctrl-c", 15: "term", 21: "default"}


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_and_goes_on_to_the_same_bytes(number, tiny_models, tmp_path, capsys):
    data, model = picture_folder(tmp_path / "data", 4, repeats=1), tiny_models("sd1")
    whole = small_run(model, data, tmp_path / "whole")
    network_recipe.train(whole)

    run = small_run(model, data, tmp_path / "stopped")
    run.update_watchers.append(lambda update: update.global_step == 2 and os.kill(os.getpid(), number))
    with pytest.raises(Stopped) as end, run.stop.listening(run.states.ask):
        network_recipe.train(run)
    assert end.value.code == 128 + number
    folder = run.states.newest
    assert f"--resume {folder}" in capsys.readouterr().err
    assert (tmp_path / "stopped" / "lora-step00000002.safetensors").exists()

    network_recipe.train(small_run(model, data, tmp_path / "stopped", "--resume", str(folder)))
    expected, got = (load_tensors(tmp_path / name / "lora.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
