"""Options for sending results to, and fetching states from, the Hugging Face hub."""

from argparse import ArgumentParser


def add_hub_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("Hugging Face hub")
    group.add_argument(
        "--huggingface_repo_id",
        type=str,
        default=None,
        metavar="OWNER/NAME",
        help="repository to upload each saved file to (default: no upload)",
    )
    group.add_argument(
        "--huggingface_repo_type",
        type=str,
        default=None,
        metavar="TYPE",
        help="kind of that repository: model, dataset or space (default: model)",
    )
    group.add_argument(
        "--huggingface_path_in_repo", type=str, default=None, metavar="FOLDER", help="folder inside the repository (default: its root)"
    )
    group.add_argument(
        "--huggingface_token",
        type=str,
        default=None,
        metavar="TOKEN",
        help="access token; better set as HF_TOKEN in the environment, where nobody reads it (default: none)",
    )
    group.add_argument(
        "--huggingface_repo_visibility",
        type=str,
        default=None,
        metavar="WHO",
        help="'public' to let everybody see a repository created here (default: private)",
    )
    group.add_argument("--save_state_to_huggingface", action="store_true", help="upload state folders too (default: off)")
    group.add_argument(
        "--resume_from_huggingface",
        action="store_true",
        help="read --resume as owner/name/path[:revision[:type]] on the hub (default: a local folder)",
    )
    group.add_argument("--async_upload", action="store_true", help="upload in the background while training goes on (default: wait for it)")
