"""From a bare machine to a first LoRA, or to a passing test suite, in one command.

    python quickstart.py demo        train a LoRA on a tiny model, draw with and without it, plot the run
    python quickstart.py test        run the test suite, on the CPU and, where there is one, on an NVIDIA GPU

Both make a virtual environment in `.venv` first and install the pinned packages into it, unless that has been done.
Arguments after these go on to the demo or to pytest. Needs Python 3.10 or newer and nothing else.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 13)
ROOT = Path(__file__).resolve().parent
REQUIREMENTS = {"demo": ["requirements.txt"], "test": ["requirements.txt", "requirements-test.txt"]}
WORKERS = str(min(os.cpu_count() or 1, 4))
NO_TESTS_FOUND = 5  # pytest's exit status
COMMANDS = {"demo": ["-m", "examples.demo"], "test": ["-m", "pytest", "-q", "-n", WORKERS]}


def main() -> int:
    here = sys.version_info[:2]
    if here < OLDEST:
        sys.exit(f"This is Python {here[0]}.{here[1]}, but 3.10 or newer is needed. Start it as, say, python3.11 quickstart.py demo")
    if here > NEWEST:
        print(f"Note: tested up to Python {NEWEST[0]}.{NEWEST[1]}; some packages may have no build for this newer one.")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=sorted(REQUIREMENTS))
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the virtual environment (default: .venv here)")
    parser.add_argument("--requirements", metavar="FILE", help="another set of package versions (default: requirements.txt)")
    options, passed_on = parser.parse_known_args()
    folder = options.venv.absolute()
    python = virtual_environment(folder)
    install(python, folder, [options.requirements] if options.requirements else REQUIREMENTS[options.what])
    command = [str(python), *COMMANDS[options.what], *passed_on]
    status = subprocess.call(command, cwd=str(ROOT), env=environment(options.what))
    if options.what == "test" and shutil.which("nvidia-smi") and "TEST_DEVICE" not in os.environ:
        return status or test_on_gpu(python, passed_on)
    return status


def test_on_gpu(python: Path, passed_on: list) -> int:
    """Runs the tests marked gpu on it, alone; the others have run on the CPU. That none of them was asked for is no failure."""
    print("\nThe same on the GPU:", flush=True)
    command = [str(python), "-m", "pytest", "-q", "-m", "gpu", *passed_on]
    status = subprocess.call(command, cwd=str(ROOT), env={**environment("test"), "TEST_DEVICE": "cuda"})
    return 0 if status == NO_TESTS_FOUND else status


def virtual_environment(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`, which is made if it is not there."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        if folder.exists() and any(folder.iterdir()):
            sys.exit(f"{folder} is there already and is not a virtual environment: choose another one with --venv FOLDER")
        print(f"Making a virtual environment in {folder}", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", str(folder)]) != 0:
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit("Python could not make a virtual environment. On Debian and Ubuntu, this adds what it needs: apt install python3-venv")
    if subprocess.call([str(python), "-c", ""]) != 0:
        sys.exit(f"The Python in {folder} does not start any more: delete that folder and run this again")
    return python


def install(python: Path, folder: Path, files: list) -> None:
    """Installs requirement files with pip. A stamp in the environment says which ones it holds, so it is done only once."""
    wanted = hashlib.sha256(b"\n".join((ROOT / name).read_bytes() for name in files)).hexdigest()
    stamp = folder / f"installed-{Path(files[-1]).name}.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing {files[-1]}: several GB the first time, some minutes. Once only.", flush=True)
    # --no-compile: Python compiles what is imported, pip would compile all of it, which takes as long as the installation itself
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile", "-r", str(ROOT / files[-1])]
    status = subprocess.call(pip)
    if status != 0:
        sys.exit(
            f"\npip could not install {files[-1]} (exit status {status}). Its last lines above say why. Usual causes: no network, "
            "a full disk (about 8 GB are needed), or a Python for which a package has no build. Then run the same command again."
        )
    stamp.write_text(wanted)
    if os.name == "nt" and shutil.which("nvidia-smi"):
        print(
            "This machine has an NVIDIA GPU, but on Windows pip's standard torch runs on the CPU. For training on the GPU, install the "
            f"CUDA build of the same version into {folder}: pytorch.org shows the command."
        )


def environment(what: str) -> dict:
    """Of the demo or the tests: they must not go to the network, and print any language on Windows too."""
    extra = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUTF8": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if what == "test":
        extra["OMP_NUM_THREADS"] = "1"  # one thread in each of the pytest workers
    return {**os.environ, **extra}


if __name__ == "__main__":
    sys.exit(main())
