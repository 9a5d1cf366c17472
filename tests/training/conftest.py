"""Two small runs that differ only in being looked at, made once in a session."""

from typing import NamedTuple

import pytest

from tests.tiny_runs import picture_folder, small_run

PROMPTS = "a (thing:1.3) --n blurry --d 5 --s 1 --w 64 --h 72 --ss euler_a\nplain --s 1 --w 64 --h 64"
WATCHED = ("--sample_at_first", "--sample_every_n_steps", "2", "--validate_every_n_steps", "2", "--max_validation_steps", "1")


class Looked(NamedTuple):
    """A finished run, the folder it wrote to, its (step, loss) records, and what its network weighs in the end."""

    run: object
    out: object
    losses: list[float]
    weights: dict


@pytest.fixture(scope="session")
def looked_at(tiny_models, tmp_path_factory):
    """Call it with True for a run with previews and validation, with False for the same one without."""
    from library.training.network_recipe import train

    runs = {}

    def made(watched: bool) -> Looked:
        if watched not in runs:
            folder = tmp_path_factory.mktemp("looked_at")
            prompts = folder / "prompts.txt"
            prompts.write_text(PROMPTS, encoding="utf-8")
            looks = [*WATCHED, "--sample_prompts", str(prompts)] if watched else ["--validate_every_n_epochs", "99"]
            common = ["--validation_split", "0.4", "--network_dropout", "0.3", "--logging_dir", str(folder / "logs")]
            run = small_run(tiny_models("sd1"), picture_folder(folder / "data", 5, repeats=1), folder / "out", *common, *looks)
            losses: list[float] = []
            run.watchers.append(lambda step: losses.append(float(step.loss)))
            train(run)
            weights = {name: weight.clone() for name, weight in run.network.state_dict().items()}
            runs[watched] = Looked(run, folder / "out", losses, weights)
        return runs[watched]

    return made
