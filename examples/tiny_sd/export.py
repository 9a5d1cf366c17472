"""Puts the trained parts together as the model folder.

    python -m examples.tiny_sd.export UNET_FOLDER VAE_FOLDER examples/tiny_sd/model
"""

import argparse
from pathlib import Path

from diffusers import AutoencoderKL

from examples.tiny_sd.model_folder import averaged_parts, write_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unet", type=Path, help="what train_unet wrote")
    parser.add_argument("vae", type=Path, help="what train_vae wrote")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_parts(averaged_parts(options.unet / "state.pt", AutoencoderKL.from_pretrained(options.vae)), options.out)


if __name__ == "__main__":
    main()
