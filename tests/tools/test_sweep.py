"""tools/sweep.py: runs that fail, are killed, are finished; and what the table, the page and the curves say of them."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from library.args.errors import BadArguments
from library.saving.pictures import write_png
from library.sweep import charts, logs, runs, sheet
from library.sweep.logs import Series
from library.sweep.runs import FINISHED, Record, Run, locked_log
from library.sweep.session import report
from tests.tiny_runs import arguments, picture_folder, prepared, trained
from tools.sweep import launcher_words

STUB = """
import sys
from pathlib import Path
options = dict(word.partition("=")[::2] for word in sys.argv[1:] if "=" in word)
folder = Path(options["--output_dir"])
with open(folder.parent.parent / "calls.txt", "a") as calls:
    print(folder.name, options.get("--resume", "new"), sorted(path.name for path in folder.iterdir()), sep="|", file=calls)
if options["--network_dim"] == "13":
    sys.exit("no luck")
(folder / (options["--output_name"] + ".safetensors")).write_bytes(b"x" * 2000)
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch, run_tool):
    """Starts a sweep over network_dim with a script that trains nothing; gives (exit status, its calls by run)."""
    place = tmp_path / "a b"
    (place / "images").mkdir(parents=True)
    (place / "train_network.py").write_text(STUB)
    monkeypatch.chdir(place)

    def start(dims: str, *own, alpha=1) -> tuple[int, dict[str, list[str]]]:
        (place / "out").mkdir(exist_ok=True)
        (place / "out" / "calls.txt").write_text("")
        base = ["train_network.py", "--pretrained_model_name_or_path", ".", "--train_data_dir", "images", "--resolution=64"]
        base += ["--network_module=networks.lora", f"--network_alpha={alpha}"]
        with pytest.raises(SystemExit) as ended:
            run_tool("tools.sweep", "--vary", f"network_dim={dims}", "--output_dir", "out", *own, "--", *base)
        lines = (place / "out" / "calls.txt").read_text().splitlines()
        return ended.value.code, {line.split("|")[0]: line.split("|")[1:] for line in lines}

    start.folder = place / "out"
    return start


def rows(folder: Path) -> dict[str, dict]:
    with open(folder / "sweep.csv", encoding="utf-8-sig", newline="") as file:
        return {row["network_dim"]: row for row in csv.DictReader(file)}


def test_a_failed_run_stops_nothing_and_is_told(sweep, capsys):
    status, calls = sweep("4,13,16")
    assert (status, list(calls)) == (1, ["network_dim=4", "network_dim=13", "network_dim=16"])
    assert {dim: row["status"] for dim, row in rows(sweep.folder).items()} == {"4": "finished", "13": "failed", "16": "finished"}
    told = capsys.readouterr()
    assert "no luck" in told.out and "1 of 3 runs failed: network_dim=13" in told.err


def test_the_table_grows_with_the_runs_and_finished_ones_are_not_made_again(sweep):
    assert sweep("4")[0] == 0
    status, calls = sweep("4,8")
    assert (status, list(calls)) == (0, ["network_dim=8"])
    assert rows(sweep.folder)["8"]["megabytes"] == "0.002"


def half_done(sweep, *states: tuple[str, int]) -> Path:
    """A run as a kill leaves it, with states of so many steps."""
    sweep("4")
    folder = sweep.folder / "runs" / "network_dim=4"
    record = json.loads((folder / "run.json").read_text()) | {"status": "unfinished"}
    (folder / "run.json").write_text(json.dumps(record))
    for name, steps in states:
        (folder / name).mkdir()
        (folder / name / "train_state.json").write_text(json.dumps({"current_epoch": 1, "current_step": steps}))
    return folder


def test_a_half_done_run_goes_on_from_its_newest_state(sweep):
    folder = half_done(sweep, ("a-state", 20), ("b-state", 100), ("c-state", 40))
    assert sweep("4")[1]["network_dim=4"][0] == str(folder / "b-state")


def test_a_half_done_run_without_a_state_starts_with_an_empty_folder(sweep):
    half_done(sweep)
    assert sweep("4")[1]["network_dim=4"] == ["new", "['log.txt', 'run.json']"]


def test_restart_begins_a_half_done_run_anew(sweep):
    half_done(sweep, ("a-state", 20))
    assert sweep("4", "--restart")[1]["network_dim=4"] == ["new", "['log.txt', 'run.json']"]


def test_runs_of_another_command_line_are_kept(sweep, capsys):
    sweep("4")
    status, calls = sweep("4,8", alpha=2)
    assert (status, calls) == (1, {})
    assert "network_dim=4 had another command line before" in capsys.readouterr().err
    assert list(sweep("4,8", "--restart", alpha=2)[1]) == ["network_dim=4", "network_dim=8"]


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to delete open files by itself")
def test_a_run_that_outlived_its_sweep_is_not_disturbed(sweep, capsys):
    folder = half_done(sweep)
    with locked_log(Run("network_dim=4", {}, (), folder)):
        status, calls = sweep("4")
    assert (status, calls) == (1, {})
    assert "still going on" in capsys.readouterr().err


@pytest.mark.parametrize("presses, passed_on", [(1, [signal.SIGINT]), (2, [signal.SIGINT, signal.SIGTERM, "killed"])])
def test_ctrl_c_lets_the_run_save_and_a_second_one_ends_it(monkeypatch, presses, passed_on):
    seen = []

    class Process:
        presses_left = presses

        def wait(self):
            self.presses_left -= 1
            if self.presses_left >= 0:
                raise KeyboardInterrupt

        def kill(self):
            seen.append("killed")

    monkeypatch.setattr(runs, "_pass_on", lambda process, number: seen.append(number))
    with pytest.raises(KeyboardInterrupt):
        runs.wait_for(Process())
    assert seen == passed_on


@pytest.mark.parametrize(
    "own, told",
    [
        ((), "training command is missing"),
        (("--", "train.py"), "train_network.py or sdxl_train_network.py"),
        (("--", "no_such_folder/train_network.py"), "there is no such file"),
        (("--", "train_network.py", "--network_module=x"), "run seed=1: --pretrained_model_name_or_path is missing"),
    ],
)
def test_mistakes_end_it_before_anything_starts(run_tool, tmp_path, capsys, own, told):
    with pytest.raises(SystemExit, match="1"):
        run_tool("tools.sweep", "--vary", "seed=1", "--output_dir", tmp_path / "out", *own)
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_launcher_that_is_not_there_is_told():
    assert launcher_words(f'"{sys.executable}" -m accelerate.commands.launch')[1:] == ["-m", "accelerate.commands.launch"]
    with pytest.raises(BadArguments, match="no program 'no_such_program'"):
        launcher_words("no_such_program launch")


def test_help_needs_no_torch():
    program = "import sys, tools.sweep; tools.sweep.setup_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_real_run_gives_curves_and_pictures(tiny_models, tmp_path):
    data, prompts, out = picture_folder(tmp_path / "images", count=4), tmp_path / "prompts.txt", tmp_path / "runs" / "dim=2"
    prompts.write_text("a red thing --w 64 --h 64 --d 7 --s 1")
    run = Run("dim=2", {"network_dim": "2"}, (), out, samples_per_step=2)
    changes = {"logging_dir": out / "logs", "validation_split": 0.25, "validate_every_n_steps": 2}
    previews = {"sample_prompts": prompts, "sample_every_n_steps": 2, "output_name": run.name}
    steps = trained(prepared("sd", arguments(tiny_models("sd1"), data, out, max_train_steps=3, **changes, **previews)))
    found = logs.curves(out / "logs")
    assert [value for _, value in found.loss] == pytest.approx([float(step.loss) for step in steps])
    assert [step for step, _ in found.validation] == [2, 3]
    run.write(Record([], [], FINISHED, 0, 3, 2, 1.0, found.last_loss, found.loss, found.validation))
    report(tmp_path, [run], ["sweep.py", "<&>"])
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "&lt;&amp;&gt;" in page
    assert "Prompt 0, seed 7: a red thing" in page and page.count("data:image/jpeg;base64,") == 1


def preview(run: Run, mark: str, index: int, seed: int) -> None:
    write_png(run.folder / "sample" / f"{run.name}_{mark}_{index:02d}_20260101000000_{seed}.png", Image.new("RGB", (8, 8)), "words")


def test_sheets_hold_runs_by_epochs_for_each_prompt_and_seed(tmp_path):
    both = [Run(name, {}, (), tmp_path / name) for name in ("a", "b")]
    for run in both:
        for epoch in (10, 2):
            preview(run, f"e{epoch:06d}", 0, 7)
            preview(run, f"e{epoch:06d}", 1, 8)
    made = sheet.sheets(both)
    assert list(made) == [(0, 7), (1, 8)]
    assert [(mark, list(pictures)) for mark, pictures in made[0, 7].items()] == [("e000002", ["a", "b"]), ("e000010", ["a", "b"])]


def test_what_a_resumed_run_logged_later_holds(monkeypatch, tmp_path):
    first = {logs.LOSS: Series([1, 2, 3], [9, 8, 7], [10, 20, 30]), logs.VALIDATION[1]: Series([1, 2], [5, 4], [21, 31])}
    second = {logs.LOSS: Series([3, 4], [6, 5], [100, 110]), logs.VALIDATION[1]: Series([2], [3], [111])}
    monkeypatch.setattr(logs, "log_folders", lambda folder: [first, second])
    monkeypatch.setattr(logs, "read_log", lambda log: log)
    found = logs.curves(tmp_path)
    assert found.loss == [(1, 9), (2, 8), (3, 6), (4, 5)]
    assert found.validation == [(2, 5), (4, 3)]
    assert (found.steps, found.seconds) == (4, 30)


def test_long_curves_are_means_of_stretches_without_what_is_not_finite():
    assert logs.thinned([1, 2, 3, 4, 5], [1, 3, float("nan"), 5, 7], most=3) == [(2, 2), (4, 5), (5, 7)]


def test_ticks_are_round_numbers():
    assert charts.ticks(0.03, 0.17) == [0.05, 0.1, 0.15]


def test_a_run_that_diverged_does_not_flatten_the_others():
    tame, wild = charts.Line("tame", "red", [(1, 1.0), (2, 0.5)]), charts.Line("wild", "blue", [(1, 1.0), (2, 1e9)])
    corner = charts.line_chart([tame, wild], "x", "y").split('points="')[1].split('"')[0]
    heights = [float(point.split(",")[1]) for point in corner.split()]
    assert heights[1] - heights[0] > 0.1 * charts.HEIGHT
