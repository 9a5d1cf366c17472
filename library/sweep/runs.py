"""The runs of a sweep on disk: what each was asked to do, how far it is, and starting it in a process of its own.

    OUTPUT_DIR/runs/NAME/run.json     command line, status, figures; written whole or not at all
    OUTPUT_DIR/runs/NAME/log.txt      what the run printed; locked while its process lives
    OUTPUT_DIR/runs/NAME/logs/        its TensorBoard log
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from library.files import written_whole

RECORD, LOG = "run.json", "log.txt"
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclass
class Record:
    """What run.json holds. arguments: what makes the run what it is. command: all of it, as it was started last.

    validation, loss: points (step, value). samples_per_step: None where it is not known.
    """

    arguments: list[str]
    command: list[str]
    status: str = UNFINISHED
    exit_status: int | None = None
    steps: int | None = None
    samples_per_step: int | None = None
    seconds: float | None = None
    last_loss: float | None = None
    loss: list[Sequence[float]] = field(default_factory=list)
    validation: list[Sequence[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One run. values: of the varied options, as text. samples_per_step: images in an update, None where it is not known."""

    name: str
    values: Mapping[str, str]
    arguments: tuple[str, ...]
    folder: Path
    samples_per_step: int | None = None

    def record(self) -> Record | None:
        """What an earlier start left here, None if nothing. Raises ValueError for a file that is no record."""
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not the record of a run ({error}): delete {self.folder}, or take another --output_dir") from error

    def write(self, record: Record) -> None:
        with written_whole(self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(_finite(asdict(record)), indent=1, ensure_ascii=False), encoding="utf-8")

    def is_finished(self) -> bool:
        record = self.record()
        return record is not None and record.status == FINISHED and record.arguments == list(self.arguments)

    def was_another(self) -> bool:
        """Whether an earlier start had other arguments."""
        record = self.record()
        return record is not None and record.arguments != list(self.arguments)

    def newest_state(self) -> Path | None:
        """The saved training state with the most steps; only whole ones have that name."""
        states = list(self.folder.glob("*-state/train_state.json"))
        steps = {file.parent: json.loads(file.read_text(encoding="utf-8"))["current_step"] for file in states}
        return max(steps, key=steps.__getitem__, default=None)


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which are no JSON: they become None."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value


def output_arguments(run: Run) -> list[str]:
    """Where a run writes."""
    return [f"--output_dir={run.folder}", f"--output_name={run.name}", f"--logging_dir={run.folder / 'logs'}"]


def make(run: Run, start: Sequence[str], extra: Sequence[str], *, anew: bool) -> int:
    """Trains: from the newest state if there is one, from the beginning otherwise or with `anew`. Returns the exit status.

    start: launcher and script; extra: arguments that all runs get behind their own. Raises ValueError if the run is still going on.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked_log(run) as log:
        state = None if anew or run.was_another() else run.newest_state()
        if state is None:
            clear(run, log)
        resume = [] if state is None else [f"--resume={state}"]
        command = [*start, *run.arguments, *extra, *output_arguments(run), *resume]
        run.write(Record(list(run.arguments), command))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},  # a file's encoding on Windows does not know all captions
            start_new_session=os.name != "nt",
        )
        return wait_for(process)


@contextlib.contextmanager
def locked_log(run: Run) -> Iterator[IO[bytes]]:
    """The run's log, open for writing behind what it holds. The lock passes on to the run and ends with the last of its processes."""
    with open(run.folder / LOG, "ab") as log:
        if os.name != "nt":
            import fcntl

            try:
                fcntl.flock(log.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{run.folder}: this run is still going on, started by an earlier sweep: wait for it, or end it") from None
        yield log


def clear(run: Run, log: IO[bytes]) -> None:
    """Takes away all that an earlier start left; the log stays open and is emptied."""
    log.truncate(0)
    for path in run.folder.iterdir():
        if path.name == LOG:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def wait_for(process: subprocess.Popen) -> int:
    """The exit status. Ctrl-C and a request to end go on to the run, which saves its state; a second one ends it at once."""
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit):
        print("\nstopping: the run saves its state first; once more to stop at once", flush=True)
        _pass_on(process, signal.SIGINT)
        try:
            process.wait()
        except (KeyboardInterrupt, SystemExit):
            _pass_on(process, signal.SIGTERM)
            process.kill()
        raise


def _pass_on(process: subprocess.Popen, number: int) -> None:
    """To all processes of the run; on Windows those of one console hear of Ctrl-C by themselves."""
    if os.name != "nt":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def last_lines(run: Run, count: int = 8) -> str:
    """The end of the run's log."""
    text = (run.folder / LOG).read_bytes()[-20_000:].decode("utf-8", errors="replace")
    lines = [line.rpartition("\r")[2] for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:])
