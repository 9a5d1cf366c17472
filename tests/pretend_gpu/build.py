"""Compiles the pretended GPU (needs a C++ compiler; a minute) and prints where it lies. Run in a process of its own: it imports torch."""

from pathlib import Path

SOURCE = Path(__file__).with_name("pretend_gpu.cpp")
NAME = SOURCE.stem


def main() -> None:
    import torch
    from torch.utils.cpp_extension import load

    if torch.version.cuda or torch.version.hip:
        raise SystemExit("this torch knows real GPUs: pretending needs its build for the CPU")
    print(load(NAME, [str(SOURCE)], extra_cflags=["-O1"]).__file__)


if __name__ == "__main__":
    main()
