"""Shows one golden run step by step, ours beside the recorded one.

    python -m tests.golden_runs a_plain [--golden-dir DIR] [--folder KEEP]

With --folder the models and outputs stay there, and a run that was made is not made again.
"""

import argparse
import tempfile
from pathlib import Path

from tests.offline import go_offline

COLUMNS = "step  images  loss ours / recorded / apart            grad_norm ours / recorded      net_l2 ours / recorded"


def other_decoder() -> bool:
    """Whether images are decoded or resized by other library versions than the recordings were made with."""
    import cv2
    import PIL

    return not (cv2.__version__.startswith("5.") and PIL.__version__.startswith("13."))


def table(recorded: dict, made: dict) -> list[str]:
    """One line for each micro step that both have; "=" where the images are the same."""
    recorded_updates = {update["after_micro_step"]: update for update in recorded["optimizer_steps"]}
    updates = {update["after_micro_step"]: update for update in made["optimizer_steps"]}
    lines = [COLUMNS]
    for number, (theirs, ours) in enumerate(zip(recorded["steps"], made["steps"], strict=False), 1):
        same = "=" if theirs["images"] == ours["images"] else "other"
        apart = abs(ours["loss"] / theirs["loss"] - 1)
        line = f"{number:4}  {same:6}  {ours['loss']:.8f} {theirs['loss']:.8f} {apart:.1e}"
        for key in ("grad_norm", "net_l2"):
            pair = (updates.get(number, {}).get(key), recorded_updates.get(number, {}).get(key))
            line += "   " + " ".join("-".rjust(12) if value is None else f"{value:12.8g}" for value in pair)
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a recorded run")
    parser.add_argument("--golden-dir", type=Path, default=Path(__file__).parent / "golden", help="recordings (default: tests/golden)")
    parser.add_argument("--folder", type=Path, help="where to keep models and outputs (default: a temporary folder)")
    options = parser.parse_args()
    go_offline()
    from tests.golden_compare import differences, limits_for
    from tests.golden_workshop import Workshop, recorded_run

    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        recorded = recorded_run(options.golden_dir, options.name)
        made = Workshop(root, options.golden_dir).made(options.name)
    print("\n".join(table(recorded, made)))
    found = differences(recorded, made, limits_for(recorded, other_decoder=other_decoder()))
    print(f"\n{len(found)} differences", *found, sep="\n")


if __name__ == "__main__":
    main()
