"""What tools/lora_doctor.py does: the report, and the copy that is mended or renamed."""

from collections.abc import Iterator
from pathlib import Path

from networks.files.adapter_file import open_adapter
from networks.files.conversion import all_modules, cleaned, converted
from networks.files.diagnosis import diagnose, report
from networks.files.rewrite import save
from networks.files.tasks import precision


def examine(
    path: str, *, fix: bool = False, naming: str | None = None, save_to: str | None = None, save_precision: str | None = None,
    keep_metadata: bool = False,
) -> Iterator[str]:  # fmt: skip
    """The lines of the report; writes the copy that is asked for. Raises ValueError if there is nothing to write, or no way to."""
    file = open_adapter(path)
    found = diagnose(file)
    yield from report(found)
    if not fix and naming is None:
        return
    dtype = precision(save_precision)
    if fix:
        file, modules = cleaned(found, dtype, keep_metadata=keep_metadata)
    else:
        modules = all_modules(file)
    tensors, metadata = converted(file, modules, naming or "kohya")
    if dtype is not None:
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    target = save_to or str(Path(path).with_name(f"{Path(path).stem}-{naming or 'fixed'}.safetensors"))
    if Path(target).resolve() == Path(path).resolve():
        raise ValueError(f"--save_to {target} is the file itself: name another")
    save(target, tensors, {key: value for key, value in metadata.items() if not key.startswith("sshs_")})
    yield f"written: {target}"
