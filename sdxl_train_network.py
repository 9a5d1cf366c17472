"""Trains a LoRA, or another small network, on Stable Diffusion XL.

accelerate launch sdxl_train_network.py --pretrained_model_name_or_path model.safetensors --train_data_dir images --resolution 1024,1024 \
    --output_dir output --network_module networks.lora --network_dim 16 --learning_rate 1e-4 --max_train_epochs 10 --mixed_precision bf16
"""

from argparse import ArgumentParser

from library.args import parser
from library.args.errors import mistakes_end_the_program
from library.args.reading import read_args
from library.light_start import imports_without_collecting, leave_unused_packages_out

SCRIPT = "sdxl_train_network"


def setup_parser() -> ArgumentParser:
    return parser.setup_parser(SCRIPT)


def main() -> None:
    args = read_args(setup_parser(), SCRIPT)
    from library.models import kinds
    from library.models.read_ahead import read_ahead
    from library.training.first_look import first_look
    from library.training.preview_prompts import draws_previews

    with mistakes_end_the_program():
        first_look(args, kinds.SDXL)
        read_ahead(args.pretrained_model_name_or_path, args.vae)
        with imports_without_collecting():
            from library.training.second_look import second_look

            second_look(args)
            leave_unused_packages_out(previews=draws_previews(args))
            from library.models.sdxl import SDXL
            from library.training.network_recipe import train_network
        train_network(args, SDXL.from_args(args))


if __name__ == "__main__":
    main()
