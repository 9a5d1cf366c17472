"""What a .safetensors file says of itself, read without torch."""

from pathlib import Path

from safetensors import SafetensorError, safe_open


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file; empty for other formats and for files without any. Tensors are not read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as fault:
        raise ValueError(f"{path} is not a whole .safetensors file ({fault}): copy or download it again") from fault
