"""The merge of a LoRA into a whole model: ours beside a plain loop that loads both files, adds, and saves.

    python bench/merge.py --model sd15.safetensors --rounds 4

A random LoRA of all its transformer layers is made for the model. The two run in turn (A B B A), each in a process of its own; the
figures are medians. `to disk`: of the seconds, those after the last byte was handed to the system, when the file is made safe.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PLAIN = """
import sys
sys.path.insert(0, {root!r})
import torch
from safetensors.torch import load_file, save_file
from networks.files.places import kind_of_model, places
model, adapter = load_file({model!r}), load_file({adapter!r})
found = places(model, kind_of_model(model, ""))
model = {{name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in model.items()}}
with torch.no_grad():
    for name in [name for name in adapter if name.endswith("lora_down.weight")]:
        module = name.rpartition(".lora_down")[0]
        down, up = adapter[name].float(), adapter[module + ".lora_up.weight"].float()
        weight = model[found[module].key]
        scale = float(adapter[module + ".alpha"]) / down.shape[0]
        weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
save_file(model, {out!r})
"""


def random_adapter(model: str, path: Path, rank: int) -> None:
    import torch
    from safetensors.torch import save_file

    from library.models.streams import open_stream
    from networks.files.algebra import layer_shape_of, lora_parts
    from networks.files.extract import target_places
    from networks.files.places import kind_of_model

    stream = open_stream(model)
    tensors = {}
    for module, place in target_places(stream, kind_of_model(stream.tensors, model), with_conv=False).items():
        weight = torch.empty(stream.tensors[place.key].shape, device="meta")
        shape = layer_shape_of(module, weight if place.third is None else weight.chunk(3)[0])
        columns = torch.Size(shape[1:]).numel()
        parts = lora_parts(0.01 * torch.randn(rank, columns), 0.01 * torch.randn(shape[0], rank), rank, shape)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, path)


def timed(command: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds, and peak memory in GB, of one process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a whole model in one .safetensors file")
    parser.add_argument("--rank", type=int, default=16, help="rank of the LoRA (default: 16)")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of runs (default: 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        adapter, out = Path(folder) / "lora.safetensors", Path(folder) / "out.safetensors"
        random_adapter(args.model, adapter, args.rank)
        ours = [sys.executable, str(ROOT / "networks" / "merge_lora.py"), "--sd_model", args.model, "--models", str(adapter)]
        ours += ["--ratios", "1", "--save_to", str(out)]
        plain = [sys.executable, "-c", PLAIN.format(root=str(ROOT), model=args.model, adapter=str(adapter), out=str(out))]
        commands, results = {"ours": ours, "plain loop": plain}, {"ours": [], "plain loop": []}
        for number in range(args.rounds):
            for name in list(commands)[:: 1 if number % 2 == 0 else -1]:
                out.unlink(missing_ok=True)
                os.sync()
                results[name].append(timed(commands[name]))
                print(name, *(f"{value:.2f}" for value in results[name][-1]), flush=True)
    print("| | seconds | processor seconds | peak memory, GB |\n|---|---|---|---|")
    for name, rows in results.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(column):.2f}" for column in zip(*rows)) + " |")


if __name__ == "__main__":
    main()
