"""A whole training run in a few minutes, without any download: a LoRA of a mascot on a tiny model that can draw.

    python quickstart.py demo

The model in examples/tiny_sd draws coloured shapes and has never seen the mascot; sheet.png shows what the LoRA taught it.
Files, options and log are those of a real run.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny_sd"
NAME = "mikanbot"
STEPS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="folder for everything the demo writes (default: demo)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--sampling_steps", type=int, default=20, help="denoising steps of each picture on the sheet (default: 20)")
    options = parser.parse_args()
    start = time.perf_counter()
    output = options.output.resolve()
    for old in ("logs", "lora"):
        shutil.rmtree(output / old, ignore_errors=True)
    command = training_command(output, options.steps)
    print("Training:\n  " + readable(command) + "\n", flush=True)
    status = subprocess.call(command)
    if status != 0:
        print(f"\nThe training ended with exit status {status}; its messages are above.", file=sys.stderr)
        return status
    from examples.curves import plot_run
    from examples.sheet import draw_sheet

    plot_run(output / "logs", output / "curves.png", title=f"{NAME}: {options.steps} steps")
    print("Drawing the same prompts with and without the LoRA", flush=True)
    draw_sheet(TINY / "model", lora_file(output), output / "sheet.png", options.sampling_steps)
    print(summary(output, time.perf_counter() - start))
    return 0


def lora_file(output: Path) -> Path:
    return output / "lora" / f"{NAME}.safetensors"


def training_command(output: Path, steps: int) -> list[str]:
    """The command line as kohya's users write it, started through accelerate."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    options = {
        "pretrained_model_name_or_path": TINY / "model",
        "train_data_dir": TINY / "mascot",
        "reg_data_dir": TINY / "reg",
        "caption_extension": ".txt",
        "shuffle_caption": None,
        "keep_tokens": 2,
        "resolution": 96,
        "enable_bucket": None,
        "min_bucket_reso": 64,
        "max_bucket_reso": 128,
        "train_batch_size": 4,
        "cache_latents": None,
        "output_dir": output / "lora",
        "output_name": NAME,
        "network_module": "networks.lora",
        "network_dim": 16,
        "network_alpha": 16,
        "network_args": ["conv_dim=8", "conv_alpha=8"],
        "learning_rate": 3e-3,
        "lr_scheduler": "cosine_with_restarts",
        "lr_scheduler_num_cycles": 2,
        "lr_scheduler_min_lr_ratio": 0.1,
        "lr_warmup_steps": 10,
        "max_train_steps": steps,
        "mixed_precision": "no",
        "max_data_loader_n_workers": 0,
        "logging_dir": output / "logs",
        "min_snr_gamma": 5,
        "seed": 42,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", *_words(value))]
    return [*launch, str(ROOT / "train_network.py"), *words]


def _words(value) -> list[str]:
    if value is None:
        return []
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def readable(command: list[str]) -> str:
    """The command for a reader: quoted for the system's shell, one option a line."""
    return subprocess.list2cmdline(command).replace(" --", " \\\n    --")


def summary(output: Path, seconds: float) -> str:
    lora = lora_file(output)
    lines = [
        f"\nDone in {seconds:.0f} seconds.",
        f"  before and after   {output / 'sheet.png'}",
        f"  loss and rate      {output / 'curves.png'}",
        f"  LoRA               {lora}  ({lora.stat().st_size / 1e6:.1f} MB)",
        f"  its pictures       {TINY / 'mascot'}",
        f"  log                {output / 'logs'}  (tensorboard --logdir shows it)",
        "To train on pictures of your own, see README.md: the command is the one above with your model and folder.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
