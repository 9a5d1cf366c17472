"""bench/learning.py: its data, its cells, going on after a kill, and the figures in its tables."""

import json

import pytest

from bench import learning, learning_run, learning_tables
from bench.learning_cells import COMMON, TABLES, Cell
from library.args.parser import setup_parser
from library.args.reading import read_args
from tests.data.scenes import paint

TASK = {"samples": 16, "batch": 4, "size": 64, "measurements": 2}


@pytest.fixture
def pictures(tmp_path):
    """A concept of five pictures and four of the base."""
    for folder, count in (("10_bot robot", 5), ("reg", 4)):
        for number in range(count):
            image = paint(tmp_path / folder / f"p{number}.png", (64, 64), seed=number)
            image.with_suffix(".txt").write_text(f"picture {number}", encoding="utf-8")
    return tmp_path


def names(folder) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.png"))


def test_what_is_measured_is_never_trained_on(pictures):
    learning_run.write_data(pictures / "data", pictures / "10_bot robot", pictures / "reg", 64, 4)
    found = {folder.name: names(folder) for folder in (pictures / "data").iterdir() if folder.is_dir()}
    assert found == {
        "train": ["p0", "p1", "p2", "p4"], "concept": ["p3"], "reg": ["p1", "p3"], "base": ["p0", "p2"], "class": ["p0", "p2"],
    }  # fmt: skip
    assert (pictures / "data" / "class" / "p2.txt").read_text() == "robot, picture 2"


def test_a_folder_without_trigger_and_class_is_refused(pictures):
    with pytest.raises(ValueError, match="--concept .*REPEATS_TRIGGER CLASS"):
        learning_run.write_data(pictures / "data", pictures / "reg", pictures / "reg", 64, 4)


def test_every_cell_is_a_command_line_that_trains(pictures):
    learning_run.write_data(pictures / "data", pictures / "10_bot robot", pictures / "reg", 64, 4)
    task = learning_run.Task(pictures, pictures / "data", **TASK)
    parser = setup_parser("train_network")
    for cell in (cell for _, cells in TABLES.values() for cell in cells):
        words = learning_run.command_line(task, COMMON | cell.options, 1, pictures / "out", with_reg=cell.with_reg)
        assert read_args(parser, "train_network", words).max_train_steps == 4


def test_a_killed_bench_goes_on_with_what_is_missing(pictures, tiny_models, capsys, monkeypatch):
    results = pictures / "results.jsonl"
    argv = ["--tables", "norms,regularisation", "--cells", "^(off|without)$", "--seeds", "2", "--samples", "8", "--batch", "4"]
    argv += ["--measurements", "1", "--model", tiny_models("sd1"), "--concept", pictures / "10_bot robot", "--base", pictures / "reg"]
    monkeypatch.setattr("sys.argv", ["learning.py", *map(str, argv), "--results", str(results)])
    learning.main()
    lines = results.read_text().splitlines()
    assert len(lines) == 2  # "off" and "without" are the same runs
    curves = [json.loads(line)["curve"] for line in lines]
    assert curves[0][0] == curves[1][0] and curves[0][-1] != curves[1][-1]  # measured with the same noise, trained with another
    samples, *losses, d = curves[0][-1]
    assert samples == 8 and all(0 < loss < 5 for loss in losses) and d is None
    results.write_text(lines[0] + "\n" + lines[1][:50])
    capsys.readouterr()
    learning.main()
    told = capsys.readouterr()
    assert "2 runs, 1 of them done before" in told.err
    assert json.loads(results.read_text().splitlines()[-1])["curve"] == curves[1]
    assert "| with | not run |" in told.out


def test_runs_that_tables_share_are_the_same_run():
    of_optimizers = next(cell for cell in TABLES["optimizers"][1] if cell.labels == ("AdamW", "16"))
    keys = {learning.key_of({}, cell, 1) for cell in (of_optimizers, TABLES["norms"][1][0], TABLES["schedules"][1][0])}
    assert len(keys) == 1 and learning.key_of({}, of_optimizers, 2) not in keys


def test_a_table_shows_means_and_spreads_as_changes_in_percent(monkeypatch):
    monkeypatch.setitem(TABLES, "norms", (("x",), [Cell(("a",)), Cell(("b",))]))
    curves = {1: [[0, 1.0, 2.0, 2.0, None], [8, 0.6, 2.2, 2.4, None], [16, 0.7, 2.2, 2.4, None]]}
    curves[2] = [[0, 1.0, 2.0, 2.0, None], [8, 0.9, 2.0, 2.0, None], [16, 0.8, 2.0, 2.0, None]]

    def result(cell, seed):
        return {"curve": curves[seed], "seconds": 3.0} if cell.labels == ("a",) else None

    rows = learning_tables.markdown("norms", result, seeds=2).splitlines()[-2:]
    assert rows == [
        "| a | -30.0 ± 14.1 | 12 ± 6 | -25.0 ± 7.1 | 5.0 ± 7.1 | 10.0 ± 14.1 | 3.0 ± 0.0 | 2 |",
        "| b | not run |",
    ]


def test_the_growth_of_d_is_dated():
    curve = [[0, 1, 1, 1, 1e-6], [8, 1, 1, 1, 1e-4], [16, 1, 1, 1, 1.005e-4]]
    assert learning_tables.d_figures([{"curve": curve}]) == ["0.0001 ± 0", "8 ± 0"]
