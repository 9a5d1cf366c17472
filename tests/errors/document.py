"""Writes docs/errors.md from the rows: python -m tests.errors.document"""

from pathlib import Path

from tests.errors import rows_data, rows_models, rows_options, rows_runs
from tests.errors.world import WrongInput

TARGET = Path(__file__).parents[2] / "docs" / "errors.md"
SECTIONS = rows_options.SECTIONS | rows_data.SECTIONS | rows_models.SECTIONS | rows_runs.SECTIONS
ROWS = [row for rows in SECTIONS.values() for row in rows]
HEAD = """# What is read when something is wrong

{count} wrong inputs, and what the program says to each: one or a few lines that name the option or file, the value, and a way out, then
exit status 1 (2 for a command line that cannot be read, 0 where the run goes on). `--console_log_level DEBUG` adds the traceback. Where the
code of another package fails (an optimizer, a network module, a data set of one's own), its traceback stands below the message.

*When*: **at once**, within a second or two, before torch is imported (what needs torch: in about three); **soon**, before a model is
loaded; **later**, where only the file itself, the model or the training shows it. Images in folders of more than 20,000 files are looked at
soon. "\u2026" stands for words that differ from one machine to the next, and FOLDER for the folder the command is typed in.

This page is made from the tables in `tests/errors/`, and each of its rows is a test.
"""


def document() -> str:
    """The whole page."""
    parts = [HEAD.format(count=len(ROWS))]
    for title, rows in SECTIONS.items():
        parts.append(f"\n## {title}\n\n| what is wrong | when | what is read |\n|---|---|---|\n")
        parts += [f"| {row.wrong} | {row.when} | {cell(row)} |\n" for row in rows]
    return "".join(parts)


def cell(row: WrongInput) -> str:
    """The message as code, one piece to a line."""
    prefix = "warning: " if row.goes_on else "error: "
    return "<br>".join(code(line) for line in (prefix + row.said).split("\n"))


def code(line: str) -> str:
    line = line.replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
