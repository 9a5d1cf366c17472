"""Combinations of options that cannot work, found before torch is imported."""

from argparse import Namespace

from library.args.check_combinations import (
    bucket_problems,
    cache_problems,
    caption_variant_problems,
    family_problems,
    network_part_problems,
    noise_problems,
    precision_problems,
    warn_of_masks_that_are_missing,
)
from library.args.check_numbers import range_problems, size_problems, timestep_problems
from library.args.check_optimizer import key_value_problems, optimizer_problems, schedule_problems, share_problems
from library.args.check_packages import network_module_problems, package_problems
from library.args.check_paths import (
    dataset_problems,
    hub_problems,
    model_problems,
    network_problems,
    output_problems,
    preview_problems,
    resume_problems,
)
from library.args.errors import BadArguments

# Each takes (args, script) and yields one message per mistake.
CHECKS = (
    model_problems,
    dataset_problems,
    network_problems,
    output_problems,
    resume_problems,
    hub_problems,
    preview_problems,
    range_problems,
    timestep_problems,
    size_problems,
    optimizer_problems,
    schedule_problems,
    share_problems,
    key_value_problems,
    package_problems,
    network_module_problems,
    precision_problems,
    noise_problems,
    cache_problems,
    caption_variant_problems,
    bucket_problems,
    network_part_problems,
    family_problems,
)


def check(args: Namespace, script: str) -> None:
    """Raises BadArguments that tells all mistakes in `args` at once, one to a line; warns of options without effect.

    args: as `normalise` leaves them. script: a name in library.args.parser.SCRIPTS.
    """
    problems = [problem for find_problems in CHECKS for problem in find_problems(args, script)]
    if problems:
        raise BadArguments("\nerror: ".join(problems))
    warn_of_masks_that_are_missing(args)
