"""Trains every combination of some options' values, one run after the other, and puts the results into one table.

python tools/sweep.py --vary optimizer_type+learning_rate=AdamW:1e-4,Lion:2e-5 --vary network_dim=4,16 --output_dir sweep -- \
    train_network.py --pretrained_model_name_or_path model.safetensors --train_data_dir images --resolution 512 \
    --network_module networks.lora --max_train_epochs 10 --cache_latents --seed 1

The same command again goes on where it stopped. docs/tools.md tells more.
"""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.args.errors import BadArguments, mistakes_end_the_program
from library.args.parser import SCRIPTS
from library.args.tools import tool_parser
from library.args.variations import Variation, variations

ROOT = Path(__file__).resolve().parents[1]


def setup_parser() -> ArgumentParser:
    parser = tool_parser("tools/sweep.py", __doc__.partition("\n")[0])
    parser.usage = "%(prog)s --vary NAME=VALUE,VALUE --output_dir FOLDER -- train_network.py [its options]"
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="an option of the training script and its values; NAME+NAME=VALUE:VALUE,... varies several together;"
        " may be given again, then every combination is run (default: none)",
    )
    parser.add_argument("--output_dir", type=Path, default=None, metavar="FOLDER", help="folder of the whole sweep (default: none, needed)")
    parser.add_argument(
        "--launcher", type=str, default=None, metavar="COMMAND", help="what starts the script, 'accelerate launch' (default: this Python)"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin runs that are not finished anew, and those that had another command line before (default: go on; refuse)",
    )
    parser.add_argument("--dry_run", action="store_true", help="show the runs and start none (default: off)")
    return parser


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first lone `--`, and behind it."""
    words = list(words)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def script_file(base: Sequence[str]) -> Path:
    """The training script, first word of the base command line: a file from here, or one of this suite."""
    if not base:
        raise BadArguments("the training command is missing: write -- train_network.py and its options at the end")
    name = Path(base[0])
    if name.stem not in SCRIPTS or name.suffix != ".py":
        known = " or ".join(f"{script}.py" for script in SCRIPTS)
        raise BadArguments(f"{base[0]}: behind -- stands {known}, then its options; programs that start it go into --launcher")
    found = [path for path in (name, ROOT / name) if path.is_file()]
    if not found:
        raise BadArguments(f"{base[0]}: there is no such file, neither in {Path.cwd()} nor in {ROOT}")
    return found[0].resolve()


def launcher_words(text: str | None) -> list[str]:
    """The words that come before the script."""
    if text is None:
        return [sys.executable]
    words = [word.strip("\"'") for word in shlex.split(text, posix=False)] if os.name == "nt" else shlex.split(text)
    if not words or shutil.which(words[0]) is None:
        raise BadArguments(f"--launcher {text}: there is no program {words[0] if words else ''!r} on the PATH")
    return words


def check_own(options: Namespace) -> None:
    if not options.vary:
        raise BadArguments("--vary is missing: name an option and its values, such as --vary network_dim=4,16")
    if options.output_dir is None:
        raise BadArguments("--output_dir is missing: name the folder of the sweep, before the --")
    if options.output_dir.is_file():
        raise BadArguments(f"--output_dir {options.output_dir} is a file: give a folder")
    if importlib.util.find_spec("tensorboard") is None:
        raise BadArguments("the losses are read from TensorBoard logs, but the package is not installed: pip install tensorboard")


def samples_per_step(options: Namespace) -> int | None:
    """Images in one update of one process; None where the data's description decides."""
    if options.dataset_config is not None or options.dataset_class is not None:
        return None
    return options.train_batch_size * options.gradient_accumulation_steps


def shared_arguments(made: Sequence[Variation]) -> list[str]:
    """What all runs get so that what one has encoded is there for the others: caches that a run keeps are kept on disk.

    wandb alone would leave no losses here, so TensorBoard records them as well.
    """
    options, shared = made[0].options, []
    for cache in ("cache_latents", "cache_text_encoder_outputs"):
        if all(getattr(one.options, cache, False) for one in made):
            shared.append(f"--{cache}_to_disk")
    if options.log_with == "wandb":
        shared.append("--log_with=all")
    return shared


def hints(made: Sequence[Variation]) -> list[str]:
    """What makes a comparison worse than it could be."""
    told = []
    if any(one.options.seed is None for one in made):
        told.append("no --seed: the runs differ by chance too")
    if not any(one.options.cache_latents for one in made):
        told.append("no --cache_latents: every run encodes the images anew")
    if any(one.options.dataset_config is None and not one.options.validation_split for one in made):
        told.append("no --validation_split: training losses of different settings say little about what was learned")
    return told


def main() -> None:
    own, base = split_at_dashes(sys.argv[1:])
    options = setup_parser().parse_args(own)
    with mistakes_end_the_program(hint=""):
        check_own(options)
        script = script_file(base)
        made = variations(script.stem, base[1:], options.vary)
        start = [*launcher_words(options.launcher), str(script)]
        from library.sweep.runs import Run

        folder = options.output_dir.resolve()
        runs = [Run(one.name, one.values, one.arguments, folder / "runs" / one.name, samples_per_step(one.options)) for one in made]
        other = [run.name for run in runs if run.was_another()]
        if other and not options.restart:
            raise BadArguments(
                f"--output_dir {options.output_dir}: {', '.join(other)} had another command line before, which {folder / 'runs' / other[0]}"
                "/run.json holds: take another folder, or add --restart to make them again"
            )
        for hint in hints(made):
            print(f"note: {hint}", flush=True)
        if options.dry_run:
            for run in runs:
                state = "finished" if run.is_finished() else "to do"
                print(f"{run.name} ({state}): {subprocess.list2cmdline([*start, *run.arguments])}")
            return
        sys.exit(sweep(runs, start, shared_arguments(made), folder, anew=options.restart))


def sweep(runs: Sequence, start: Sequence[str], shared: Sequence[str], folder: Path, *, anew: bool) -> int:
    """Makes what is not finished. Returns the exit status of the whole: 1 if a run failed."""
    from library.sweep.runs import make
    from library.sweep.session import close, report

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    failed = []
    report(folder, runs, sys.argv)
    for number, run in enumerate(runs, start=1):
        place = f"[{number}/{len(runs)}] {run.name}"
        if run.is_finished():
            print(f"{place}: finished before", flush=True)
            continue
        print(f"{place}: training, see {run.folder / 'log.txt'}", flush=True)
        try:
            status = make(run, start, shared, anew=anew)
        except (KeyboardInterrupt, SystemExit) as stopped:
            report(folder, runs, sys.argv)
            print("stopped; the same command goes on", flush=True)
            return stopped.code if isinstance(stopped, SystemExit) else 128 + signal.SIGINT
        print(f"{place}: {close(run, status)}", flush=True)
        failed += [run.name] if status else []
        report(folder, runs, sys.argv)
    print(f"{folder / 'sweep.html'}\n{folder / 'sweep.csv'}")
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}. The same command tries them again.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    main()
