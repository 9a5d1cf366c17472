"""What the documents say holds: links lead somewhere, commands name options that exist, new options are described."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SCRIPTS = {"train_network.py": "train_network", "sdxl_train_network.py": "sdxl_train_network"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_to_files(document):
    targets = [link.partition("#")[0] for link in LINK.findall(document.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert not [target for target in local if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_source_files_that_are_named_exist(document):
    named = re.findall(r"`((?:library|networks|tests|examples|docs)/[\w./-]*)`", document.read_text(encoding="utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


def commands(document: Path) -> list[list[str]]:
    """Every training command in a code block, continued lines joined."""
    blocks = FENCE.findall(document.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.search(r"\b(sdxl_)?train_network\.py\s+--", line)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_use_options_that_exist(document):
    from library.args.parser import setup_parser

    for words in commands(document):
        script = next(word for word in words if word in SCRIPTS)
        given = words[words.index(script) + 1 :]
        _, unknown = setup_parser(SCRIPTS[script]).parse_known_args(given)
        assert not unknown, f"{name(document)}: {unknown}"


def test_the_readme_shows_a_training_command():
    assert commands(ROOT / "README.md")


def test_every_new_option_is_described():
    declared = re.findall(r'"(--\w+)"', (ROOT / "library" / "args" / "ours.py").read_text(encoding="utf-8"))
    described = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert not [option for option in declared if f"## `{option}`" not in described]


def test_requirements_stay_within_what_the_package_allows():
    """Each package that setup.py requires is pinned in requirements.txt."""

    def normal(requirement: str) -> str:
        return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")

    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = re.search(r"REQUIRED = \[(.*?)\n\]", setup, re.DOTALL).group(1)
    pinned = {normal(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"}
    assert {normal(word) for word in re.findall(r'"([^"]+)"', required)} <= pinned
