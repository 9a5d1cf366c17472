"""A font of the system that can write Chinese, Japanese and Korean captions, for pictures with text in them.

Found by its file name alone; nothing is installed and none comes with this package.
"""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

LATIN = 0x2E80
"""From this code point on come the scripts of East Asia, which Pillow's own font does not have."""
FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "NotoSansJP-Regular.otf", "NotoSansJP-Regular.ttf", "NotoSansSC-Regular.otf",
    "YuGothM.ttc", "meiryo.ttc", "msgothic.ttc", "msyh.ttc", "msjh.ttc", "simsun.ttc", "malgun.ttf", "Hiragino Sans GB.ttc",
    "PingFang.ttc", "SourceHanSans-Regular.ttc", "ipagp.ttf", "ipag.ttf", "fonts-japanese-gothic.ttf", "TakaoPGothic.ttf",
    "VL-PGothic-Regular.ttf", "wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf",
    "Arial Unicode.ttf",
)  # fmt: skip
"""The first that is there is taken: file names on Linux, Windows and macOS."""
SUFFIXES = (".ttf", ".ttc", ".otf")


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or for East Asian text one of FONTS if the system has it. size: in pixels."""
    path = _east_asian() if any(ord(letter) >= LATIN for letter in text) else None
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


@cache
def _east_asian() -> Path | None:
    there = {path.name.lower(): path for folder in _font_folders() for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}
    return next((there[name.lower()] for name in FONTS if name.lower() in there), None)


def _font_folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")
        yield Path(os.environ.get("LOCALAPPDATA", home), "Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    else:
        yield from (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts")
