"""Which commit of this program is running, for the metadata of what it saves."""

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def program_commit(root: Path = ROOT) -> str | None:
    """The full commit id of the checkout at `root`, asked once; None outside a git checkout or without git."""
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
