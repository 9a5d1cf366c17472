"""The commit of the running program."""

import subprocess

from library.saving.commit import program_commit


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path):
    assert program_commit(tmp_path) is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_commit(tmp_path) is None


def test_a_checkout_tells_its_commit(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], cwd=tmp_path, check=True)
    shown = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert program_commit(tmp_path) == shown.strip()
