"""Trains a LoRA, or another small network, on Stable Diffusion 1.x or 2.x.

accelerate launch train_network.py --pretrained_model_name_or_path model.safetensors --train_data_dir images --resolution 512 \
    --output_dir output --network_module networks.lora --network_dim 16 --learning_rate 1e-4 --max_train_epochs 10 --mixed_precision fp16
"""

from argparse import ArgumentParser

from library.args import parser
from library.args.errors import mistakes_end_the_program
from library.args.reading import read_args
from library.light_start import imports_without_collecting, leave_unused_packages_out

SCRIPT = "train_network"


def setup_parser() -> ArgumentParser:
    return parser.setup_parser(SCRIPT)


def main() -> None:
    args = read_args(setup_parser(), SCRIPT)
    from library.models.kinds import SD1, SD2
    from library.models.read_ahead import read_ahead
    from library.training.first_look import first_look
    from library.training.preview_prompts import draws_previews

    with mistakes_end_the_program():
        first_look(args, SD2 if args.v2 else SD1)
        read_ahead(args.pretrained_model_name_or_path, args.vae)
        with imports_without_collecting():
            from library.training.second_look import second_look

            second_look(args)
            leave_unused_packages_out(previews=draws_previews(args))
            from library.models.sd import SD
            from library.training.network_recipe import train_network
        train_network(args, SD.from_args(args))


if __name__ == "__main__":
    main()
