"""--dataset_class from the command line to a trained file."""

import pytest
from safetensors import safe_open

from tests.golden_workshop import read_command_line

MODULE = """
import torch
from library.train_util import MinimalDataset

class Noise(MinimalDataset):
    def __init__(self, *given):
        super().__init__(*given)
        self.batch_size = 2

    def __len__(self):
        return 1

    def __getitem__(self, number):
        return {"captions": ["cat", "dog"], "images": torch.zeros(2, 3, 64, 64)}
"""


@pytest.mark.gpu
def test_a_network_is_trained_on_a_data_set_class_of_ones_own(tmp_path, tiny_models, monkeypatch):
    from library.training.network_recipe import train_network

    (tmp_path / "own_data_for_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    argv = f"""--pretrained_model_name_or_path {tiny_models("sd1")} --dataset_class own_data_for_a_test.Noise --resolution 64
        --output_dir {tmp_path} --output_name own --network_module networks.lora --network_dim 2 --learning_rate 1e-3 --max_train_steps 1
        --max_data_loader_n_workers 0"""
    train_network(*read_command_line("sd", argv.split()))
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        assert (file.metadata()["ss_num_train_images"], file.metadata()["ss_batch_size_per_device"]) == ("2", "2")
