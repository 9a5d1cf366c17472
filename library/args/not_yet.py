"""Options that are known but whose work has not come into this version. A row leaves the table when its work arrives."""

from argparse import Namespace
from collections.abc import Iterator

from library.args.parser import default_values, setup_parser

NOT_YET = {
    "cache_text_encoder_outputs": "leave it out, captions are then encoded at each step",
    "cache_text_encoder_outputs_to_disk": "leave it out, captions are then encoded at each step",
    "debug_dataset": "read the table of buckets that each run prints",
    "dataset_class": "describe the data with --dataset_config",
}


def not_yet_problems(args: Namespace, script: str) -> Iterator[str]:
    """One message for each option of NOT_YET that has another value than its default."""
    defaults = default_values(setup_parser(script))
    for name, way_out in NOT_YET.items():
        value = getattr(args, name, None)
        if value != defaults.get(name):
            given = "" if value is True else f" (given: {value})"
            yield f"--{name} is not available yet in this version{given}: {way_out}"
