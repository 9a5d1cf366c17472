"""Images per second of scanning, caching and loading, each beside a plain single-threaded loop; memory by number of images.

    python bench/data.py [--images 2000] [--workers 2] [--encoder-ms 20] [--repeats 1] [--only speed|memory]

The plain loop does what a straightforward trainer does: one listing per file ending, each file opened in turn, and decode,
resize, encode and write strictly one after another. The encoder is a stand-in that pools 8x8 pixels and then waits, as one
waits for a GPU; at 0 ms nothing hides the decoding. Images are JPEG photos of 768 to 1536 pixels, trained at 512 in buckets.
"""

import argparse
import gc
import glob
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this folder, whose kernels.py would pass for the package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from library.data.buckets import plan_buckets
from library.data.dataset import ImageDataset
from library.data.folders import image_extensions
from library.data.framing import centered
from library.data.group import DatasetGroup
from library.data.held_caches import hold_small_caches
from library.data.latent_cache import cache_latents
from library.data.loader import BatchLoader
from library.data.registration import register_images
from library.data.subsets import DatasetSettings, Subset

SIZES = ((768, 1024), (1024, 768), (1024, 1024), (1536, 1024), (900, 1200))
COUNTS = (1_000, 10_000, 100_000)
LINKS = 20_000
"""Names per file: file systems limit the hard links to one."""


def settings_of(folder: Path) -> DatasetSettings:
    subset = Subset(image_dir=str(folder), caption_extension=".txt", flip_aug=True)
    return DatasetSettings([subset], (512, 512), batch_size=4, enable_bucket=True)


def photo(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft shapes with some grain, so that a JPEG of it weighs about what a photo does."""
    coarse = rng.integers(0, 256, (size[1] // 32, size[0] // 32, 3), np.uint8)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8))


def make_images(folder: Path, count: int) -> None:
    """`count` files of 20 different pictures, each with a caption; old enough for an index to note them."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    pictures = [folder / f"{number:06d}.jpg" for number in range(min(count, 20))]
    for number, path in enumerate(pictures):
        photo(rng, SIZES[number % len(SIZES)]).save(path, quality=92)
        os.utime(path, (1e9, 1e9))
    contents = [path.read_bytes() for path in pictures]
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(contents[number % len(contents)])
        path.with_suffix(".txt").write_text(f"photo {number}, outdoors, soft light, shapes, colours", encoding="utf-8")
        for written in (path, path.with_suffix(".txt")):
            os.utime(written, (1e9, 1e9))


def plain_scan(folder: Path) -> list[tuple[str, tuple[int, int], str]]:
    """One listing per ending, then each caption and each header in turn."""
    endings = [form for ending in (".png", ".jpg", ".jpeg", ".webp", ".bmp") for form in (ending, ending.upper())]
    found = []
    for path in sorted({path for ending in endings for path in glob.glob(glob.escape(str(folder)) + f"/*{ending}")}):
        caption = os.path.splitext(path)[0] + ".txt"
        text = Path(caption).read_text(encoding="utf-8").partition("\n")[0].strip() if os.path.isfile(caption) else ""
        with Image.open(path) as image:
            found.append((path, image.size, text))
    return found


def plain_pixels(path: str, size: tuple[int, int], plan) -> torch.Tensor:
    choice = plan.choose(size)
    image = np.array(Image.open(path).convert("RGB"))
    image = centered(size, choice.resized, choice.bucket).apply(image, None)
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def plain_cache(images, plan, encode) -> None:
    for path, size, _ in images:
        pixels = plain_pixels(path, size, plan)[None]
        latents, flipped = encode(pixels)[0], encode(pixels.flip(-1))[0]
        kept = {"latents": latents, "latents_flipped": flipped, "original_size": size, "crop_ltrb": (0.0, 0.0, 1.0, 1.0)}
        np.savez(os.path.splitext(path)[0] + "_plain.npz", **kept)


def plain_load(images, plan) -> None:
    for start in range(0, len(images), 4):
        [plain_pixels(path, size, plan) for path, size, _ in images[start : start + 4]]


def plain_load_cached(images) -> None:
    for path, _, _ in images:
        with np.load(os.path.splitext(path)[0] + "_plain.npz") as arrays:
            [torch.from_numpy(arrays[name]) for name in arrays.files]


def encoder(milliseconds: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """(B, 3, H, W) -> (B, 4, H/8, W/8) after `milliseconds` for each image."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(milliseconds / 1000 * len(pixels))
        pooled = F.avg_pool2d(pixels, 8)
        return torch.cat([pooled, pooled[:, :1]], 1)

    return encode


def scan(folder: Path, use_index: bool) -> DatasetGroup:
    settings = settings_of(folder)
    registered = register_images(settings, validation=False, strict_compat=False, use_index=use_index)
    return DatasetGroup([ImageDataset(settings, registered, index=0, strict_compat=False)])


def loading(group: DatasetGroup, workers: int) -> Callable[[], None]:
    """One epoch with workers that are there already, as from the second epoch on; none where the data lies in memory."""
    group.set_seed(1)
    loader = BatchLoader(group, workers=workers, persistent_workers=True, shuffle=True, strict_compat=False, seed=1)
    next(loader.epoch(1))
    return lambda: [None for _ in loader.epoch(2)]


def processor_seconds() -> float:
    """Of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def seconds(action: Callable) -> tuple[float, float]:
    """By the clock, and of the processor."""
    started, used = time.perf_counter(), processor_seconds()
    action()
    return time.perf_counter() - started, processor_seconds() - used


def without_caches(folder: Path) -> None:
    for made in folder.glob("*.npz"):
        made.unlink()


def speeds(folder: Path, count: int, workers: int, encoder_ms: float, repeats: int) -> None:
    """Prints images/s of the plain loop and ours, step by step: the best of `repeats` turns, which alternate."""
    plan = plan_buckets(settings_of(folder))
    images = plain_scan(folder)     # the operating system has the files in memory from here on
    options = {"to_disk": True, "suffix": "_sd.npz", "batch_size": 1, "vae_id": "stand-in"}

    def row(name: str, plain: Callable, ours: Callable, before: Callable = lambda: None) -> None:
        turns = [(before(), seconds(plain), before(), seconds(ours)) for _ in range(repeats)]
        (best, work), (best_of_ours, our_work) = min(turn[1] for turn in turns), min(turn[3] for turn in turns)
        speed = f"{count / best:,.0f} | {count / best_of_ours:,.0f} | {best / best_of_ours:.1f}"
        print(f"| {name} | {speed} | {work / count * 1000:.2f} | {our_work / count * 1000:.2f} |", flush=True)

    def cache(milliseconds: float) -> None:
        cache_latents(scan(folder, True), encoder(milliseconds), **options)

    print("| images/s | plain loop | ours | times | training process, ms per image, plain | ours |\n|---|---|---|---|---|---|")
    row("scanning, first start", lambda: plain_scan(folder), lambda: scan(folder, False))
    scan(folder, True)
    row("scanning, later starts", lambda: plain_scan(folder), lambda: scan(folder, True))
    for ms in (0.0, encoder_ms):
        name = f"caching with flips, encoder {ms:g} ms"
        row(name, lambda ms=ms: plain_cache(images, plan, encoder(ms)), lambda ms=ms: cache(ms), lambda: without_caches(folder))
    plain_cache(images, plan, encoder(0))
    cache(0)
    row("finding the cache up to date", lambda: plain_load_cached(images), lambda: cache(0))
    group, uncached = scan(folder, True), scan(folder, True)
    cache_latents(group, encoder(0), **options)
    row(f"loading cached latents, {workers} workers", lambda: plain_load_cached(images), loading(group, workers))
    hold_small_caches([group])
    row("loading cached latents, kept in memory", lambda: plain_load_cached(images), loading(group, workers))
    row(f"loading images, {workers} workers", lambda: plain_load(images, plan), loading(uncached, workers))


def link_images(folder: Path, count: int) -> None:
    """`count` names for a few small files: what is measured is our memory, not the disk."""
    folder.mkdir()
    for number in range(count):
        path, first = folder / f"{number:06d}.png", folder / f"{number // LINKS * LINKS:06d}.png"
        if path == first:
            Image.new("RGB", (640, 480)).save(path)
            path.with_suffix(".txt").write_text(random.Random(number).choice(("cat", "dog")) + ", outdoors, soft light", encoding="utf-8")
            for written in (path, path.with_suffix(".txt")):
                os.utime(written, (1e9, 1e9))
        else:
            os.link(first, path)
            os.link(first.with_suffix(".txt"), path.with_suffix(".txt"))


def resident() -> float:
    """MiB of main memory this process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(folder: Path) -> None:
    """In a process of its own: seconds to scan the folder, and how much memory is held then (MiB)."""
    image_extensions()      # what formats there are costs the same for any folder
    before, started = resident(), time.perf_counter()
    group = scan(folder, True)
    taken = time.perf_counter() - started
    gc.collect()
    print(taken, resident() - before, len(group))


def memory(root: Path) -> None:
    print("\n| images | first start, s | later start, s | memory held, MiB | KiB per image |\n|---|---|---|---|---|")
    for count in COUNTS:
        folder = root / f"linked_{count}"
        link_images(folder, count)
        command = [sys.executable, __file__, "--measure", str(folder)]
        first, later = (
            [float(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()] for _ in range(2)
        )
        print(f"| {count:,} | {first[0]:.2f} | {later[0]:.2f} | {later[1]:.0f} | {later[1] * 1024 / count:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--encoder-ms", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=1, help="turns, the best of which counts (default: 1)")
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if options.only != "memory":
            make_images(root / "images", options.images)
            speeds(root / "images", options.images, options.workers, options.encoder_ms, options.repeats)
        if options.only != "speed":
            memory(root)


if __name__ == "__main__":
    main()
