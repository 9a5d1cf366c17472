"""How the cost of a step grows with batch, resolution, rank and what is trained, counted without a GPU; and what buckets and processes add.

python bench/growth.py [--family sd|sdxl] [--precision bf16] [--json]

Each line changes one thing of the first one. Steps are counted as by bench/count.py, on fake tensors. Buckets: a batch has one size, so
each bucket's last batch of an epoch may be short; told are the share of batches this adds, and the shapes the step meets. Processes: the
size of the one message by which gradients are averaged for an update, the same however many there are. Cost against the number of images
is measured by bench/data.py.
"""

import argparse
import json
import logging
import random
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import count
from library.data.buckets import bucket_sizes

SIZES = {"sd": (512, 768), "sdxl": (1024, 1280)}
IMAGES, BATCH = 1000, 4
GRADIENT_BYTES = 4  # of one number in the message


def settings_to_count(family: str) -> dict[str, dict]:
    """Name of the line -> what is counted."""
    size, larger = SIZES[family]
    first = {"rank": 16, "batch": 1, "size": size, "unet_only": True}
    return {
        "first": first,
        "batch 2": first | {"batch": 2},
        "batch 4": first | {"batch": 4},
        f"{larger} px": first | {"size": larger},
        "rank 64": first | {"rank": 64},
        "rank 128": first | {"rank": 128},
        "text encoder too": first | {"unet_only": False},
        "selective checkpointing": first | {"checkpointing": "selective"},
        "whole blocks checkpointed": first | {"checkpointing": True},
    }


def bucket_rows(resolution: int) -> list[dict]:
    """Batches and shapes of an epoch of images whose sides are spread over more and more buckets."""
    sizes = bucket_sizes(resolution**2, 64, 256, 2 * resolution)
    rows = []
    for number_of_buckets in (1, 4, 16, len(sizes)):
        drawn = random.Random(0)
        images = [0] * number_of_buckets
        for _ in range(IMAGES):
            images[drawn.randrange(number_of_buckets)] += 1
        batches = sum(-(-number // BATCH) for number in images)
        rows.append({"buckets": number_of_buckets, "batches": batches, "more": batches / -(-IMAGES // BATCH) - 1})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(SIZES), default="sd")
    parser.add_argument("--precision", choices=sorted(count.DTYPES), default="bf16")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    steps = {
        name: asdict(count.count_step(options.family, precision=options.precision, **settings).counts)
        for name, settings in settings_to_count(options.family).items()
    }
    buckets = bucket_rows(SIZES[options.family][0])
    if options.json:
        print(json.dumps({"family": options.family, "precision": options.precision, "steps": steps, "buckets": buckets}))
        return
    print(f"{options.family}, {options.precision}; first: batch 1, rank 16, U-Net only, {SIZES[options.family][0]} px")
    print(f"{'':28}{'launches':>10}{'reads':>7}{'TFLOP':>9}{'GiB moved':>11}{'peak GiB':>10}{'message MiB':>13}")
    for name, counts in steps.items():
        print(f"{name:28}{counts['launches']:10,}{counts['host_reads']:7}{counts['flops'] / 1e12:9.2f}"
              f"{counts['bytes'] / 2**30:11.1f}{counts['peak_bytes'] / 2**30:10.2f}"
              f"{counts['trained'] * GRADIENT_BYTES / 2**20:13.1f}")  # fmt: skip
    print(f"\n{IMAGES} images in batches of {BATCH}")
    for row in buckets:
        print(f"{row['buckets']:6} buckets: {row['batches']:5} batches, {row['more']:6.1%} more than in one; as many shapes as buckets")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
