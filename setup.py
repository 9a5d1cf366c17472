"""The package `library`, the name under which the kohya_ss GUI installs the folder `sd-scripts` (`pip install -e ./sd-scripts`).

Ranges reach from the versions kohya_ss pins to the newest tested ones; requirements.txt holds one exact, tested set.
"""

from setuptools import find_packages, setup

REQUIRED = [
    "torch>=2.7",
    "numpy>=1.26",
    "diffusers>=0.32.2",
    "transformers>=4.54.1,<6",
    "accelerate>=1.7",
    "safetensors>=0.4.5",
    "tokenizers>=0.21",
    "huggingface_hub>=0.34",
    "filelock",
    "Pillow>=10",
    # Provides cv2. Where the desktop build opencv-python is wanted, install that one afterwards: both fill the same folder.
    "opencv-python-headless>=4.8",
    "ftfy>=6.1",
    "scipy>=1.11",
    "toml>=0.10.2",
    "voluptuous>=0.13",
    "tqdm>=4.60",
    "psutil",
    "tensorboard>=2.15",
    "bitsandbytes>=0.44",
    "dadaptation>=3.2",
    "lion-pytorch>=0.2.3",
    "prodigyopt>=1.1.2",
    "schedulefree>=1.4",
]

EXTRAS = {
    "cuda": ["xformers", "triton; platform_system == 'Linux'", "triton-windows; platform_system == 'Windows'"],
    "plots": ["matplotlib>=3.8"],
    "lycoris": ["lycoris-lora>=3.2.0.post2"],
    "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff", "peft>=0.17", "lycoris-lora>=3.2.0.post2", "matplotlib>=3.8"],
}

setup(
    name="library",
    version="0.1.0",
    description="LoRA training for Stable Diffusion with the command lines, files and folders of kohya's sd-scripts",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["library", "library.*", "networks", "networks.*"]),
    package_data={"library.models": ["clip_vocabulary/*"], "library.optim": ["*.c"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
