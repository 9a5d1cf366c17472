"""Fetches one folder of a repository on the Hugging Face hub: what --resume names together with --resume_from_huggingface."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubFolder:
    """A folder in a repository. revision: branch, tag or commit, None is the main branch. kind: model, dataset or space."""

    repository: str
    path: str
    revision: str | None = None
    kind: str = "model"

    @classmethod
    def of(cls, address: str) -> "HubFolder":
        """Reads `owner/name/path[:revision[:kind]]`. Raises ValueError for anything else."""
        place, *more = address.split(":")
        owner, _, rest = place.partition("/")
        name, _, path = rest.partition("/")
        path = path.strip("/")
        kind = more[1] if len(more) == 2 and more[1] else "model"
        leads_out = ".." in path.replace("\\", "/").split("/")
        if not (owner and name and path) or leads_out or len(more) > 2 or kind not in ("model", "dataset", "space"):
            raise ValueError(
                f"--resume {address}: with --resume_from_huggingface it takes owner/name/folder[:revision[:type]], "
                "such as me/my-loras/mine-000002-state or me/my-loras/mine-000002-state:main:model"
            )
        return cls(f"{owner}/{name}", path, more[0] or None if more else None, kind)

    def fetch(self, token: str | None) -> Path:
        """Downloads its files into the hub's cache, those that are not there yet. Raises ValueError if there are none to be had."""
        from huggingface_hub import snapshot_download

        try:
            snapshot = snapshot_download(
                self.repository, repo_type=self.kind, revision=self.revision, allow_patterns=f"{self.path}/*", token=token
            )
        except (OSError, ValueError) as fault:
            raise ValueError(
                f"--resume: {self.repository} could not be read from the hub ({fault}): check its name, the network and, for a private "
                "one, --huggingface_token or HF_TOKEN"
            ) from fault
        folder = Path(snapshot) / self.path
        if not folder.is_dir():
            raise ValueError(f"--resume: {self.repository} has no folder {self.path}: name the state folder as it stands there")
        return folder
