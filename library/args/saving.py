"""Options for what is written during and after training, and how much of it is kept."""

from argparse import ArgumentParser


def add_saving_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("saving")
    group.add_argument(
        "--output_dir", type=str, default=None, metavar="FOLDER", help="folder for the trained files; created if absent (needed)"
    )
    group.add_argument(
        "--output_name",
        type=str,
        default=None,
        metavar="NAME",
        help="file name without ending; epoch and step numbers are added to it (default: last)",
    )
    group.add_argument(
        "--save_model_as",
        type=str,
        default="safetensors",
        choices=[None, "ckpt", "pt", "safetensors"],
        help="file format; ckpt and pt carry no metadata (default: safetensors)",
    )
    group.add_argument(
        "--save_precision",
        type=str,
        default=None,
        choices=[None, "float", "fp16", "bf16"],
        help="number format of the saved weights; fp16 or bf16 halve the file (default: as trained)",
    )
    group.add_argument("--no_metadata", action="store_true", help="leave the training details (ss_*) out of the file (default: written)")
    group.add_argument(
        "--training_comment", type=str, default=None, metavar="TEXT", help="free text kept in the file's metadata (default: none)"
    )
    _add_intervals(group)
    _add_states(group)


def _add_intervals(group) -> None:
    group.add_argument(
        "--save_every_n_epochs", type=int, default=None, metavar="N", help="save after each N epochs (default: only at the end)"
    )
    group.add_argument(
        "--save_every_n_steps", type=int, default=None, metavar="N", help="save after each N optimizer steps (default: only at the end)"
    )
    group.add_argument(
        "--save_n_epoch_ratio",
        type=int,
        default=None,
        metavar="N",
        help="save about N times in the whole run, at epoch ends; replaces --save_every_n_epochs (default: off)",
    )
    group.add_argument(
        "--save_last_n_epochs",
        type=int,
        default=None,
        metavar="N",
        help="keep the saves of the last N epochs and delete older ones (default: keep all)",
    )
    group.add_argument(
        "--save_last_n_epochs_state",
        type=int,
        default=None,
        metavar="N",
        help="the same for state folders (default: as --save_last_n_epochs)",
    )
    group.add_argument(
        "--save_last_n_steps",
        type=int,
        default=None,
        metavar="N",
        help="delete step saves that are more than N steps old (default: keep all)",
    )
    group.add_argument(
        "--save_last_n_steps_state",
        type=int,
        default=None,
        metavar="N",
        help="the same for state folders (default: as --save_last_n_steps)",
    )


def _add_states(group) -> None:
    group.add_argument(
        "--save_state",
        action="store_true",
        help="with each save also write what --resume needs: optimizer, scheduler, random states (default: off)",
    )
    group.add_argument(
        "--save_state_on_train_end", action="store_true", help="write that state once, at the end of training (default: off)"
    )
    group.add_argument(
        "--resume",
        type=str,
        default=None,
        metavar="FOLDER",
        help="state folder of an earlier run to go on from, exactly where it stood; 'newest' takes the last whole one that a run of this"
        " --output_name saved in --output_dir, or begins at step 0 where there is none (default: start anew)",
    )
