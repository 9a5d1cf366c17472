"""Cache files of text encoder outputs, one npz beside each image, in the form sd-scripts uses for SDXL.

Arrays: hidden_state1 (L, D1) and hidden_state2 (L, D2), which side by side are `prompt_embeds`, and pool2 (D2), the
`pooled_prompt_embeds`. Ours also hold `source`, the evidence by which a stale file is told.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.data.latent_files import UNREADABLE, open_npz
from library.files import written_whole

KEYS = ("hidden_state1", "hidden_state2", "pool2")


@dataclass(frozen=True)
class TextSource:
    """What the states were made from. `encoders` names the text encoders; "" accepts any."""

    caption: str
    token_length: int
    encoders: str = ""


def text_states_path(image: Path, suffix: str, qualifier: str = "") -> Path:
    """Where the text states of `image` are kept. `qualifier` tells apart what would share one name."""
    return image.with_name(f"{image.stem}{qualifier}{suffix}")


def write_text_states(path: Path, states: dict[str, Tensor], first_width: int, source: TextSource) -> None:
    """states: prompt_embeds (L, D1 + D2) and pooled_prompt_embeds (D2). first_width: D1, the width of the first encoder."""
    embeds = _storable(states["prompt_embeds"])
    arrays = {
        "hidden_state1": np.ascontiguousarray(embeds[:, :first_width]),
        "hidden_state2": np.ascontiguousarray(embeds[:, first_width:]),
        "pool2": _storable(states["pooled_prompt_embeds"]),
        "source": np.array(json.dumps(asdict(source))),
    }
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_text_states(path: Path) -> dict[str, Tensor]:
    """prompt_embeds and pooled_prompt_embeds. Raises ValueError naming a file that is damaged or lacks something."""
    try:
        with open_npz(path) as arrays:
            first, second, pooled = (torch.from_numpy(arrays[key]) for key in KEYS)
    except UNREADABLE as error:
        raise ValueError(f"cannot use the text cache file {path}: {error}. Delete it and it will be made again") from error
    return {"prompt_embeds": torch.cat([first, second], dim=-1), "pooled_prompt_embeds": pooled}


def why_text_stale(path: Path, source: TextSource, caption_file: Path | None, *, as_stored: bool = True) -> str | None:
    """Why the cache file cannot be used, in a few words; None when it can. A missing file is "missing".

    Files of other tools carry no evidence: they are taken if they are not older than the caption file, and if the caption is
    trained as it is stored there (as_stored), because other tools encode no other.
    """
    if not path.exists():
        return "missing"
    try:
        with open_npz(path) as arrays:
            missing = [key for key in KEYS if key not in arrays]
            if missing:
                return f"without {missing[0]}"
            if "source" in arrays:
                return _wrong_source(TextSource(**json.loads(str(arrays["source"]))), source)
    except (*UNREADABLE, TypeError):
        return "damaged"
    if not as_stored:
        return "of the caption without its prefix, suffix or other changes"
    if caption_file is not None and caption_file.exists() and path.stat().st_mtime < caption_file.stat().st_mtime:
        return "older than the caption"
    return None


def _wrong_source(found: TextSource, wanted: TextSource) -> str | None:
    if found.caption != wanted.caption:
        return "of another caption"
    if found.token_length != wanted.token_length:
        return "of another --max_token_length"
    if found.encoders and wanted.encoders and found.encoders != wanted.encoders:
        return "made by other text encoders"
    return None


def _storable(states: Tensor) -> np.ndarray:
    """numpy knows no bfloat16: it is kept as float32."""
    return (states.float() if states.dtype == torch.bfloat16 else states).cpu().numpy()
