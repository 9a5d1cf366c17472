"""A whole training run in about a minute, without any download: pictures, captions, a tiny model, a LoRA, its curves.

    python quickstart.py demo

The tiny model has random weights, so the LoRA is no work of art; files, options and log are those of a real run.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "mikanbot"
TRIGGER = "3_mikanbot robot"
"""kohya's folder name: 3 repeats of each picture, and the words that stand in for a missing caption."""
STEPS = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="folder for everything the demo writes (default: demo)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    options = parser.parse_args()
    start = time.perf_counter()
    output = options.output.resolve()
    prepare(output)
    command = training_command(output, options.steps)
    print("\nTraining:\n  " + readable(command) + "\n", flush=True)
    status = subprocess.call(command)
    if status != 0:
        print(f"\nThe training ended with exit status {status}; its messages are above.", file=sys.stderr)
        return status
    from examples.curves import plot_run

    plot_run(output / "logs", output / "curves.png", title=f"{NAME}: {options.steps} steps")
    print(summary(output, time.perf_counter() - start))
    return 0


def prepare(output: Path) -> None:
    """Draws the pictures, and builds the model unless it is there from an earlier run. What a run wrote last time goes."""
    from examples.pictures import write_mascot
    from examples.tiny_model import write_tiny_model

    for old in ("images", "logs", "lora"):
        shutil.rmtree(output / old, ignore_errors=True)
    print(f"Drawing pictures and captions into {output / 'images' / TRIGGER}", flush=True)
    write_mascot(output / "images" / TRIGGER)
    if not (output / "tiny_model" / "model_index.json").exists():
        print(f"Building a tiny Stable Diffusion model in {output / 'tiny_model'}", flush=True)
        write_tiny_model(output / "tiny_model")


def training_command(output: Path, steps: int) -> list[str]:
    """The command line as kohya's users write it, started through accelerate."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=2"]
    options = {
        "pretrained_model_name_or_path": output / "tiny_model",
        "train_data_dir": output / "images",
        "caption_extension": ".txt",
        "shuffle_caption": None,
        "keep_tokens": 1,
        "resolution": 128,
        "enable_bucket": None,
        "min_bucket_reso": 64,
        "max_bucket_reso": 256,
        "train_batch_size": 2,
        "cache_latents": None,
        "output_dir": output / "lora",
        "output_name": NAME,
        "network_module": "networks.lora",
        "network_dim": 8,
        "network_alpha": 4,
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine_with_restarts",
        "lr_scheduler_num_cycles": 2,
        "lr_scheduler_min_lr_ratio": 0.1,
        "lr_warmup_steps": 4,
        "max_train_steps": steps,
        "mixed_precision": "no",
        "max_data_loader_n_workers": 0,
        "logging_dir": output / "logs",
        "seed": 42,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value) if word is not None]
    return [*launch, str(ROOT / "train_network.py"), *words]


def readable(command: list[str]) -> str:
    """The command for a reader: quoted for the system's shell, one option a line."""
    return subprocess.list2cmdline(command).replace(" --", " \\\n    --")


def summary(output: Path, seconds: float) -> str:
    lora = output / "lora" / f"{NAME}.safetensors"
    lines = [
        f"\nDone in {seconds:.0f} seconds.",
        f"  LoRA       {lora}  ({lora.stat().st_size / 1e6:.1f} MB)",
        f"  curves     {output / 'curves.png'}",
        f"  pictures   {output / 'images' / TRIGGER}",
        f"  log        {output / 'logs'}  (tensorboard --logdir shows it)",
        "To train on pictures of your own, see README.md: the command is the one above with your model and folder.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
