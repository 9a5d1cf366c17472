"""Rows of docs/errors.md: states of earlier runs, and what goes wrong while training."""

import torch

from tests.errors.faults import changed_folder, cut, damaged_record, hostile, raising
from tests.errors.rows_models import late
from tests.errors.world import WrongInput as Row


def state(change) -> dict:
    return {"s": changed_folder("earlier/lora-state", change)}


STATE = "earlier/lora-state"
RESUMING = [
    Row(
        "`--resume` that is not there",
        "--resume none: there is no such folder; it takes a folder whose name ends in -state, or the word newest",
        {"resume": "none"},
    ),
    Row(
        "the folder above the state",
        (
            "--resume earlier: this is no whole state, it has no model.safetensors and no optimizer.bin; name one of the states in "
            "it: lora-state"
        ),
        {"resume": "earlier"},
    ),
    Row(
        "a state without its optimizer",
        (
            "--resume s: this is no whole state, it has no optimizer.bin; copy it again, or begin anew from its weights with "
            "--network_weights s/model.safetensors"
        ),
        {"resume": "s"},
        state(lambda path: (path / "optimizer.bin").unlink()),
    ),
    Row(
        "an optimizer cut off",
        "--resume s: s/optimizer.bin is not a whole torch file: copy the state again",
        {"resume": "s"},
        state(lambda path: cut(f"{STATE}/optimizer.bin")(path / "optimizer.bin")),
    ),
    Row(
        "a network cut off",
        "--resume s: s/model.safetensors is not a whole .safetensors file (…): copy or download it again",
        {"resume": "s"},
        state(lambda path: cut(f"{STATE}/model.safetensors")(path / "model.safetensors")),
    ),
    Row(
        "a record cut off",
        (
            "--resume s: s/run.json is not whole (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): "
            "copy the state again"
        ),
        {"resume": "s"},
        state(lambda path: (path / "run.json").write_text("{")),
    ),
    Row(
        "a record with text for a number",
        "--resume s: s/run.json is damaged (global_step is 'many'): without that file the state is taken like one of sd-scripts",
        {"resume": "s"},
        state(damaged_record),
    ),
    Row(
        "a run that is finished",
        (
            "--resume earlier/lora-state: this run is finished, 1 steps are done and --max_train_steps 1 asks for no more; give "
            "more to go on"
        ),
        {"resume": STATE, "max_train_steps": 1},
    ),
    Row(
        "another rank",
        (
            "--resume earlier/lora-state: its network is another one (network_dim: 2 there, 4 here): give the options as saved. Or "
            "begin a new run from its weights: --network_weights earlier/lora-state/model.safetensors, without --resume"
        ),
        {"resume": STATE, "network_dim": 4},
    ),
    Row(
        "another network module",
        (
            "--resume earlier/lora-state: its network is another one (network_module: networks.lora there, networks.loha here): "
            "give the options as saved. Or begin a new run from its weights: --network_weights "
            "earlier/lora-state/model.safetensors, without --resume"
        ),
        {"resume": STATE, "network_module": "networks.loha"},
    ),
    Row(
        "another optimizer",
        (
            "--resume earlier/lora-state: it was saved with the optimizer torch.optim.adamw.AdamW, this run has "
            "lion_pytorch.lion_pytorch.Lion: give --optimizer_type as saved. Or begin a new run from its weights: "
            "--network_weights earlier/lora-state/model.safetensors, without --resume"
        ),
        {"resume": STATE, "optimizer_type": "Lion"},
    ),
    Row(
        "a state of another family",
        (
            "--resume earlier/lora-state: it is the state of a LoRA for sd_v1, this run trains one for sdxl_base_v1-0: give that "
            "kind of base model"
        ),
        {"resume": STATE},
        script="sdxl",
    ),
    late(
        "a state with other parts trained",
        (
            "--resume earlier/lora-state: its network is another one, 72 of its tensors have no place here (such as …): give as "
            "saved what differs, network_train_unet_only: False there, True here. Or begin a new run from its weights: "
            "--network_weights earlier/lora-state/model.safetensors, without --resume"
        ),
        {"resume": STATE, "network_train_unet_only": True},
    ),
    late(
        "a state that wants to run code",
        (
            "--resume s: s/optimizer.bin holds more than tensors, or is damaged, and is not opened: a pickle can run any program. "
            "Use a .safetensors version of the file"
        ),
        {"resume": "s"},
        state(lambda path: hostile(path / "optimizer.bin")),
    ),
    Row(
        "a state on the hub, its address cut short",
        (
            "--resume me/loras: with --resume_from_huggingface it takes owner/name/folder[:revision[:type]], such as "
            "me/my-loras/mine-000002-state or me/my-loras/mine-000002-state:main:model"
        ),
        {"resume": "me/loras", "resume_from_huggingface": True},
    ),
    Row(
        "a state on the hub that cannot be fetched",
        (
            "--resume: me/loras could not be read from the hub (…): check its name, the network and, for a private one, "
            "--huggingface_token or HF_TOKEN"
        ),
        {"resume": "me/loras/a-state", "resume_from_huggingface": True},
    ),
]

STEP = "library.training.network_recipe.training_loss"
TRAINING = [
    late(
        "too little GPU memory",
        (
            "GPU memory ran out during training: this run had up to … GiB of the GPU's … GiB in use.\nOptions that lower it, those "
            "that cost least time first:\n  --cache_latents: the VAE leaves the GPU\n  --mixed_precision bf16 (fp16 on cards "
            "before RTX 30): half the size, and faster\n  --sdpa: attention without its score matrix\n  --optimizer_type "
            "AdamW8bit: a quarter of the optimizer's state\n  --network_train_unet_only: the text encoders need no gradients\n  "
            "--gradient_checkpointing: most activations are computed again, about a quarter slower\n  --train_batch_size 1 "
            "--gradient_accumulation_steps 2: same updates, slower\n  --fp8_base: the frozen models in 8 bits\nWhat was saved "
            "before is whole; other programs that use the GPU count too."
        ),
        {},
        patch=raising(STEP, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    ),
    late(
        "too little main memory",
        (
            "main memory ran out during loading the models: DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 "
            "bytes.\nOptions that lower it, those that cost least time first:\n  --cache_latents: the VAE leaves the GPU\n  "
            "--mixed_precision bf16 (fp16 on cards before RTX 30): half the size, and faster\n  --sdpa: attention without its "
            "score matrix\n  --optimizer_type AdamW8bit: a quarter of the optimizer's state\n  --network_train_unet_only: the text "
            "encoders need no gradients\n  --gradient_checkpointing: most activations are computed again, about a quarter slower\n"
            "  --train_batch_size 1 --gradient_accumulation_steps 2: same updates, slower\n  --fp8_base: the frozen models in 8 "
            "bits\nWhat was saved before is whole; other programs that use the GPU count too."
        ),
        {},
        patch=raising(
            "library.models.sd.SD.load", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        ),
    ),
    late(
        "the GPU or its driver fails",
        (
            "the GPU failed during training: CUDA error: an illegal memory access was encountered. What was saved before is whole: "
            "go on with --resume. If it comes back, update the driver, leave overclocking off, and run with CUDA_LAUNCH_BLOCKING=1 "
            "in the environment, which shows the place"
        ),
        {},
        patch=raising(STEP, RuntimeError("CUDA error: an illegal memory access was encountered")),
    ),
    late(
        "the disk is full when the LoRA is saved",
        ("output/lora.safetensors could not be written: [Errno 28] No space left on device; … MiB are free in output"),
        {},
        patch=raising("library.saving.weights.written_whole", OSError(28, "No space left on device")),
    ),
    late(
        "the disk is full when latents are cached",
        (
            "the latent cache file images/4_thing/p0_0064x0064_sd.npz could not be written: [Errno 28] No space left on device: "
            "'images/4_thing/p0_0064x0064_sd.npz'; … MiB are free in images/4_thing. What cannot be written stays in memory for this run"
        ),
        {"cache_latents_to_disk": True},
        patch=raising("library.data.latent_files.np.savez", OSError(28, "No space left on device")),
        goes_on=True,
    ),
    late(
        "values that are not finite, `--nan_guard stop`",
        (
            "1 updates in a row gave NaN or infinite values (--nan_guard stop). The files saved before are whole. To try: "
            "--no_half_vae (if latents are bad), a lower --learning_rate, --mixed_precision bf16 instead of fp16, --max_grad_norm 1"
        ),
        {"nan_guard": "stop", "nan_guard_patience": 1, "noise_offset": "1e38"},
    ),
    late(
        "an upload without a token",
        "--huggingface_repo_id me/loras: 401 Client Error: Invalid username or password.",
        {"huggingface_repo_id": "me/loras"},
        patch=raising("huggingface_hub.HfApi.repo_exists", OSError("401 Client Error: Invalid username or password.")),
        goes_on=True,
    ),
]

SECTIONS = {"Resuming": RESUMING, "While training": TRAINING}
