"""Command lines that people have published run as they were typed; paths, precision and the number of steps alone are changed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.data.drawn import draw

ROOT = Path(__file__).parent.parent

OPTIMIZER_COMPARISON = """
--enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --reg_data_dir="REG" --resolution=1024,1024
--output_dir="OUT" --logging_dir="LOG" --network_alpha="8" --training_comment="学習の比較" --save_model_as=safetensors
--network_module=networks.lora --network_args "conv_dim=8" "conv_alpha=1" --text_encoder_lr=5e-5 --unet_lr=0.0001 --network_dim=16
--output_name="NAME" --lr_scheduler_num_cycles="20" --learning_rate="1e-4" --lr_scheduler="cosine_with_restarts"
--lr_warmup_steps="1067" --train_batch_size="2" --max_train_steps="2" --save_every_n_epochs="1" --mixed_precision="bf16"
--save_precision="fp16" --seed="1234" --caption_extension=".txt" --cache_latents --optimizer_type="AdamW8bit" --clip_skip=2
--keep_tokens="2" --bucket_reso_steps=64 --xformers --persistent_data_loader_workers --bucket_no_upscale
"""

BLOCK_WEIGHTS = """
--enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --reg_data_dir="" --resolution=512,512
--output_dir="OUT" --logging_dir="LOG" --network_alpha="32" --training_comment="..." --save_model_as=safetensors
--network_module=networks.lora --network_args "conv_dim=32" "conv_alpha=16" down_lr_weight="0,0,0,0,1,1,1,1,1,1,1,1"
mid_lr_weight="0" up_lr_weight="1,1,1,1,1,1,1,1,1,1,1,1" --text_encoder_lr=5e-5 --unet_lr=1e-4 --network_dim=128 --output_name="NAME"
--lr_scheduler_num_cycles="10" --learning_rate="0.0001" --lr_scheduler="cosine_with_restarts" --train_batch_size="6"
--max_train_steps="1112" --save_every_n_epochs="1" --mixed_precision="bf16" --save_precision="fp16" --seed="1234"
--caption_extension=".txt" --cache_latents --optimizer_type="Lion" --max_train_epochs=1 --clip_skip=2 --keep_tokens="3"
--bucket_reso_steps=64 --xformers --persistent_data_loader_workers --bucket_no_upscale --multires_noise_iterations="8"
--multires_noise_discount="0.3"
"""


def launched(command: str, folder: Path, model: Path) -> subprocess.CompletedProcess:
    """Runs it through `accelerate launch` in the scripts' folder, as its author did, with PYTHONPATH naming another folder first."""
    places = {"MODEL": model, "DATA": folder / "画像 data", "REG": folder / "reg", "OUT": folder / "out", "LOG": folder / "log"}
    for name, place in places.items():
        command = command.replace(f'"{name}"', f'"{place}"')
    other = folder / "gui"
    for package in ("tools", "setup", "tests"):
        (other / package).mkdir(parents=True)
        (other / package / "__init__.py").write_text("raise ImportError('the wrong folder')")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process=1", "train_network.py"]
    environment = os.environ | {"PYTHONPATH": str(other), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(launch + shlex.split(command), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", [OPTIMIZER_COMPARISON, BLOCK_WEIGHTS], ids=["optimizer comparison", "block weights"])
def test_a_published_command_line_trains(command, tmp_path, tiny_models):
    draw(tmp_path / "画像 data" / "2_ねこ cat", "一.png", "two.png", "three.jpg", size=(160, 130), caption="1girl, cat ears, smile, 夜")
    draw(tmp_path / "reg" / "1_cat", "a.png", size=(130, 130))
    done = launched(command, tmp_path, tiny_models("sd1"))
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(tmp_path / "out" / "NAME.safetensors", "pt") as file:
        assert file.metadata()["ss_clip_skip"] == "2"
    assert done.stderr.count("--xformers") == 1, "one line says that attention falls back to SDPA here"
