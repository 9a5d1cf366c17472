"""--debug_dataset from the command line."""

import pytest

from library.args.parser import setup_parser
from library.args.reading import read_args
from library.models.sd import SD
from library.training.network_recipe import train_network
from tests.data.drawn import draw


@pytest.mark.parametrize("caching", [[], ["--cache_latents"]])
def test_debug_dataset_needs_no_model_and_ends(tmp_path, caching):
    size = (80, 64) if caching else (64, 64)
    draw(tmp_path / "train" / "2_cat", "a.png", "b.png", size=size)
    arguments = ["--debug_dataset", "--train_data_dir", str(tmp_path / "train"), "--resolution", "64", "--output_dir", str(tmp_path)]
    args = read_args(setup_parser("train_network"), "train_network", arguments + caching)
    train_network(args, SD.from_args(args))
    page = (tmp_path / "debug_dataset/index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4 and page.count("bucket 64x64") == 4
