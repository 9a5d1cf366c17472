"""The overview of buckets and batches that is printed before training."""

from library.data.dataset import ImageDataset

HEADER = ("bucket", "size", "images", "batches", "part-filled")


def bucket_table(datasets: list[ImageDataset]) -> str:
    """For each data set its buckets and what an epoch of it consists of, then the same for all; plain ASCII."""
    parts = [_dataset_part(dataset, len(datasets)) for dataset in datasets]
    if len(datasets) > 1:
        parts.append("\n".join(["All data sets", *_summary(datasets)]))
    return "\n\n".join(parts)


def _dataset_part(dataset: ImageDataset, of: int) -> str:
    settings = dataset.settings
    name = "Data set" if of == 1 else f"Data set {dataset.index + 1} of {of}"
    resolution = f"{settings.resolution[0]}x{settings.resolution[1]}"
    buckets = "" if settings.enable_bucket else ", no buckets"
    title = f"{name}: resolution {resolution}, batch size {settings.batch_size}{buckets}"
    rows = [
        (
            str(number),
            f"{bucket.resolution[0]}x{bucket.resolution[1]}",
            str(len(bucket.keys)),
            str(-(-len(bucket.keys) // settings.batch_size)),
            str(part_filled),
        )
        for number, (bucket, part_filled) in enumerate(zip(dataset.buckets, dataset.part_filled, strict=True))
    ]
    note = "  (images: repeats included; part-filled: batches smaller than the batch size)"
    return "\n".join([title, *_aligned([HEADER, *rows]), note, *_summary([dataset])])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _summary(datasets: list[ImageDataset]) -> list[str]:
    kept = [record for dataset in datasets for record in dataset.records.values()]
    training = [record.num_repeats for record in kept if not record.is_reg]
    regularisation = [record.num_repeats for record in kept if record.is_reg]
    lines = [
        ("training images", f"{len(training)}, {sum(training)} with repeats"),
        ("regularisation images", f"{len(regularisation)}, {sum(regularisation)} with repeats"),
        ("samples per epoch", str(sum(training) + sum(regularisation))),
        ("batches per epoch", f"{sum(len(dataset) for dataset in datasets)}  (steps, on one GPU without gradient accumulation)"),
        ("of these part-filled", str(sum(sum(dataset.part_filled) for dataset in datasets))),
    ]
    width = max(len(name) for name, _ in lines)
    return [f"  {name.ljust(width)}  {value}" for name, value in lines]
