"""Copies some golden runs, without what is not compared, into a folder small enough to be committed.

    python -m tests.golden_shrink FULL_RECORDINGS tests/golden a_plain r_plain ...

Runs that the named ones need come along, and so do the data set and the saved networks they load.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

from tests.golden_workshop import recorded_run

KEPT = (
    "name", "note", "script", "args", "files", "needs", "data_from", "status", "error", "facts", "datasets", "optimizer", "param_groups",
    "trainable_params", "steps", "optimizer_steps", "max_norm_per_micro_step", "val_loss", "val_timesteps", "files_saved", "safetensors",
    "npz_written", "npz_arrays", "final",
)  # fmt: skip
NOT_COMPARED_IN_STEPS = ("torch_rng_before",)


def shrunk(recording: dict) -> dict:
    """The recording without the fields nothing reads."""
    small = {key: recording[key] for key in KEPT if key in recording}
    for dataset in small.get("datasets", []):
        dataset.pop("predefined_resolutions", None)
    for step in small["steps"]:
        for key in NOT_COMPARED_IN_STEPS:
            step.pop(key, None)
    return small


def copy_run(full: Path, small: Path, name: str) -> None:
    """Writes runs/NAME.json.gz and tensors/NAME.json.gz; the same input gives the same bytes."""
    recording = shrunk(recorded_run(full, name))
    if recording.get("final"):
        tensors = {key: row[:3] for key, row in recording["final"].pop("tensors").items()}
        write_packed(small / recording["final"]["tensors_file"], tensors)
    write_packed(small / "runs" / f"{name}.json.gz", recording)


def write_packed(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def copy_folder(source: Path, target: Path) -> None:
    """File by file, so that read-only folders do not stay read-only."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path)
    parser.add_argument("small", type=Path)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    wanted = list(options.names)
    for name in wanted:
        needed = recorded_run(options.full, name)["needs"]
        wanted += [other for other in needed if other not in wanted]
        for other in needed:
            artifact = Path("artifacts") / f"{other}.safetensors"
            if (options.full / artifact).exists():
                (options.small / "artifacts").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(options.full / artifact, options.small / artifact)
        copy_run(options.full, options.small, name)
    copy_folder(options.full / "dataset", options.small / "dataset")
    index = json.loads((options.full / "index.json").read_text(encoding="utf-8"))
    lines = [json.dumps(row, ensure_ascii=False) for row in index if row["name"] in wanted]
    (options.small / "index.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
