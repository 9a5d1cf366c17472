"""Sends saved files and folders to a repository on the Hugging Face hub.

All uploads of a run go through one background thread in their order. A failed one is told and never ends the training: the file is
still where it was saved.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSettings:
    """The --huggingface_* options. folder: inside the repository, "" for its root. background: uploads do not hold up the training."""

    repo_id: str
    repo_type: str = "model"
    folder: str = ""
    token: str | None = None
    private: bool = True
    background: bool = False


class HubUpload:
    """Uploads to one repository, which is created if it is not there."""

    def __init__(self, settings: HubSettings):
        from huggingface_hub import HfApi

        self.settings = settings
        self._api = HfApi(token=settings.token)
        self._repository = {"repo_id": settings.repo_id, "repo_type": settings.repo_type}
        self._pending: list[tuple[str, Future]] = []

    def check(self) -> None:
        """Finds or creates the repository before the training starts, and warns if that fails; each upload tries again."""
        error = self._api.run_as_future(self._ensure_repository).exception()
        if error is not None:
            logger.warning("--huggingface_repo_id %s: %s", self.settings.repo_id, _first_line(error))

    def file(self, path: Path) -> None:
        """Uploads one file; waits for it unless uploads go on in the background."""
        self._start(path, self._send_file)

    def folder(self, path: Path) -> None:
        """Uploads a folder with all that is in it, such as a training state."""
        self._start(path, self._send_folder)

    def finish(self) -> None:
        """Waits for what is on its way and tells what failed."""
        pending, self._pending = self._pending, []
        for name, future in pending:
            self._tell(name, future)

    def _start(self, path: Path, send: Callable[[Path], None]) -> None:
        self._pending.append((path.name, self._api.run_as_future(send, path)))
        if not self.settings.background:
            self.finish()
        while self._pending and self._pending[0][1].done():
            self._tell(*self._pending.pop(0))

    def _tell(self, name: str, future: Future) -> None:
        error = future.exception()
        if error is not None:
            logger.error("uploading %s to %s failed, the training goes on: %s", name, self.settings.repo_id, _first_line(error))
        else:
            logger.info("uploaded %s to %s", name, self.settings.repo_id)

    def _ensure_repository(self) -> None:
        if not self._api.repo_exists(**self._repository):
            self._api.create_repo(**self._repository, private=self.settings.private, exist_ok=True)

    def _place(self, path: Path) -> str:
        return "/".join(part for part in (self.settings.folder.strip("/"), path.name) if part)

    def _send_file(self, path: Path) -> None:
        self._ensure_repository()
        self._api.upload_file(
            path_or_fileobj=path, path_in_repo=self._place(path), commit_message=f"Upload {path.name}", **self._repository
        )

    def _send_folder(self, path: Path) -> None:
        self._ensure_repository()
        self._api.upload_folder(
            folder_path=path, path_in_repo=self._place(path), commit_message=f"Upload {path.name}", **self._repository
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
