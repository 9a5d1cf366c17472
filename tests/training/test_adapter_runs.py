"""Every kind of adapter trains from a command line, through a whole run with its save."""

import pytest
import torch

from library.saving.weights import load_tensors
from library.training.network_recipe import train
from tests.tiny_runs import picture_folder, small_run

pytestmark = pytest.mark.usefixtures("models_loaded_once")
BF16 = ["--mixed_precision", "bf16", "--full_bf16", "--gradient_checkpointing"]
RUNS = {
    "dora in bf16": ["--network_module", "networks.dora", *BF16, "--save_precision", "bf16"],
    "loha with dropouts": ["--network_module", "networks.loha", "--network_args", "rank_dropout=0.3", "module_dropout=0.2", "conv_dim=2"],
    "lokr dora by output": ["--network_module", "networks.lokr", "--network_args", "dora_wd=1", "wd_on_output=1", "loraplus_lr_ratio=4"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_and_keeps_its_norms_within_the_bound(tiny_models, tmp_path, name):
    options = [*RUNS[name], "--max_train_steps", "3", "--scale_weight_norms", "0.01", "--learning_rate", "0.01"]
    run = small_run(tiny_models("sd1"), picture_folder(tmp_path / "data", 4, repeats=1), tmp_path / "out", *options)
    before = {key: tensor.clone() for key, tensor in run.network.state_dict().items()}
    train(run)
    after = run.network.state_dict()
    still = [key for key, tensor in after.items() if torch.equal(tensor, before[key]) and not key.endswith("alpha")]
    assert len(still) < 0.1 * len(after)
    norms = [module.scale * module.change().norm().item() for module in run.network.adapters]
    assert max(norms) < 0.0101
    saved = load_tensors(next((tmp_path / "out").glob("*.safetensors")))
    assert {tensor.dtype for key, tensor in saved.items() if key.endswith("dora_scale")} <= {torch.float32}
