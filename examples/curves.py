"""Draws loss and learning rate of a run from its TensorBoard log.

    python -m examples.curves LOG_FOLDER curves.png
"""

import argparse
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator

from library.sweep.logs import LOSS, LOSS_AVERAGE, newest_log, read_log


def plot_run(log_folder: Path, picture: Path, title: str = "") -> None:
    """One picture: the loss of each step with its moving average above, every learning rate below. Steps count from 1."""
    scalars = {tag: (series.steps, series.values) for tag, series in read_log(newest_log(log_folder)).items()}
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=(3, 2), layout="constrained")
    above.set_title(title)
    above.plot(*scalars[LOSS], color="tab:blue", alpha=0.35, label="loss of each step")
    above.plot(*scalars[LOSS_AVERAGE], color="tab:blue", linewidth=2, label="moving average")
    above.set_ylabel("loss")
    above.legend()
    rates = [tag for tag in sorted(scalars) if tag.startswith("lr/") and not tag.startswith("lr/group")]
    for tag, style in zip(rates, cycle(["-", "--", ":"]), strict=False):
        below.plot(*scalars[tag], style, label=tag.removeprefix("lr/"))
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log_folder", type=Path, help="the --logging_dir of the run, or a folder in it")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    plot_run(options.log_folder, options.picture, title=options.log_folder.name)


if __name__ == "__main__":
    main()
