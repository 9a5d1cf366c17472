"""Options whose text goes into the file's modelspec.* metadata, where model browsers show it."""

from argparse import ArgumentParser


def add_model_metadata_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("model metadata (modelspec)")
    for option, meaning in (
        ("title", "title of the model (default: the output name)"),
        ("author", "who made it (default: none)"),
        ("description", "what it does (default: none)"),
        ("license", "its license (default: none)"),
        ("tags", "tags joined by commas (default: none)"),
        ("usage_hint", "how to use it, such as a weight or a sampler (default: none)"),
        ("thumbnail", "preview picture: a data: URL, or an image file to embed (default: none)"),
        ("merged_from", "names of the models it was merged from, joined by commas (default: none)"),
        ("trigger_phrase", "words that call up what was learned (default: none)"),
        ("preprocessor", "preprocessing its inputs need (default: none)"),
        ("is_negative_embedding", "'true' if it belongs in the negative prompt (default: none)"),
    ):
        group.add_argument(f"--metadata_{option}", type=str, default=None, metavar="TEXT", help=meaning)
