"""The tensors of an adapter as lines of text: name, shape, mean and smallest absolute value."""

from collections.abc import Iterator

from library.models.streams import open_stream
from networks.files.names import split_key

WITHOUT_STATISTICS = ("alpha",)


def listing(path: str, *, all_keys: bool) -> Iterator[str]:
    """`key,(shape),mean,smallest` of each tensor of an adapter module. all_keys: every name with its shape first.

    Raises ValueError if there is no such file, or it cannot be read.
    """
    stream = open_stream(path)
    if all_keys:
        for key in sorted(stream.tensors):
            yield f"{key} {stream.tensors[key].shape}"
    found = {key: split_key(key) for key in sorted(stream.tensors)}
    shown = [key for key, parts in found.items() if parts and parts[1] not in WITHOUT_STATISTICS]
    modules = {parts[0] for parts in found.values() if parts}
    yield f"number of LoRA modules: {len(modules)}, of their tensors: {len(shown)}"
    for key in shown:
        values = stream.tensors[key].read().float().abs()
        shape = str(tuple(values.shape)).replace(", ", "-")
        yield f"{key},{shape},{values.mean()},{values.min() if values.numel() else 0.0}"
