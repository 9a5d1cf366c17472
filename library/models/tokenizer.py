"""CLIP's tokenizers, without network: our copy of the vocabulary, or folders below --tokenizer_cache_dir.

All three tokenizers have the same 49408 entries: 256 byte symbols, the same with an end-of-word mark, 48894 merges, and
the two markers of text start and end. They differ in their padding only.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import ftfy
from transformers import CLIPTokenizerFast

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = Path(__file__).parent / "clip_vocabulary" / "merges.txt"
MEMO_LIMIT = 2**16


@dataclass(frozen=True)
class TokenizerSource:
    """A hub id, the padding token its folder names, and the id we pad with."""

    hub_id: str
    pad_token: str
    pad_id: int

    @property
    def folder_name(self) -> str:
        """Its folder below --tokenizer_cache_dir."""
        return self.hub_id.replace("/", "_")


CLIP_L = TokenizerSource("openai/clip-vit-large-patch14", END, 49407)
OPENCLIP_H = TokenizerSource("stabilityai/stable-diffusion-2", "!", 0)
# The hub's folder pads with the end marker, but SDXL was trained with 0.
OPENCLIP_BIGG = TokenizerSource("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", END, 0)


@dataclass
class ClipTokenizer:
    """Texts to token ids, without markers and padding. Remembers what it has seen, up to MEMO_LIMIT texts."""

    hf_tokenizer: CLIPTokenizerFast
    pad_id: int
    _memo: dict[str, list[int]] = field(default_factory=dict, repr=False)

    @property
    def start_id(self) -> int:
        return self.hf_tokenizer.bos_token_id

    @property
    def end_id(self) -> int:
        return self.hf_tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        """The ids of a text of any length. ftfy mends what editors and encodings do to quotes, spaces and accents."""
        if text not in self._memo:
            if len(self._memo) >= MEMO_LIMIT:
                self._memo.clear()
            self._memo[text] = self.hf_tokenizer(ftfy.fix_text(text), add_special_tokens=False, verbose=False).input_ids
        return self._memo[text]


def load_tokenizer(source: TokenizerSource, cache_dir: str | None = None) -> ClipTokenizer:
    """The tokenizer in `cache_dir`, where it is written if it is not there yet; without `cache_dir`, from our own copy.

    Raises ValueError if the cached folder cannot be read.
    """
    if cache_dir is None:
        with tempfile.TemporaryDirectory() as temporary:
            write_tokenizer_folder(source, Path(temporary))
            return ClipTokenizer(CLIPTokenizerFast.from_pretrained(temporary), source.pad_id)
    folder = Path(cache_dir) / source.folder_name
    if not folder.is_dir():
        _write_cached(source, folder)
    try:
        return ClipTokenizer(CLIPTokenizerFast.from_pretrained(str(folder)), source.pad_id)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"--tokenizer_cache_dir: the folder {folder} holds no usable tokenizer; remove it to have it made again"
        ) from error


def write_tokenizer_folder(source: TokenizerSource, folder: Path) -> None:
    """Writes vocab.json, merges.txt and the two configuration files of a CLIPTokenizer folder."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = MERGES.read_text(encoding="utf-8")
    vocabulary = _vocabulary(merges.splitlines()[1:])
    markers = {f"{kind}_token": _marker(token) for kind, token in (("bos", START), ("eos", END), ("unk", END))}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": source.pad_token,
        **{name: {"__type": "AddedToken", **marker} for name, marker in markers.items()},
    }
    (folder / "merges.txt").write_text(merges, encoding="utf-8", newline="\n")
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "special_tokens_map.json", {**markers, "pad_token": source.pad_token})
    _write_json(folder / "tokenizer_config.json", settings)


def _write_cached(source: TokenizerSource, folder: Path) -> None:
    """Writes the folder under another name and renames it, so that processes starting together never see half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_tokenizer_folder(source, unfinished)
        os.chmod(unfinished, 0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # another process was not faster: a real error
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _vocabulary(merges: list[str]) -> dict[str, int]:
    """Token -> id. The byte symbols are GPT-2's: printable bytes stand for themselves, the others for characters from 256 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [chr(byte) for byte in visible] + [chr(256 + number) for number in range(256 - len(visible))]
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + [merge.replace(" ", "") for merge in merges] + [START, END]
    return {token: number for number, token in enumerate(tokens)}


def _marker(token: str) -> dict:
    return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
