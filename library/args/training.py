"""Options for the run itself: how long, how many images at once, in which precision, with how much memory."""

from argparse import ArgumentParser

DYNAMO_BACKENDS = [
    "eager",
    "aot_eager",
    "inductor",
    "aot_ts_nvfuser",
    "nvprims_nvfuser",
    "cudagraphs",
    "ofi",
    "fx2trt",
    "onnxrt",
    "tensort",
    "ipex",
    "tvm",
]


def add_training_arguments(parser: ArgumentParser) -> None:
    _add_length(parser.add_argument_group("length and batches"))
    _add_precision(parser.add_argument_group("precision"))
    _add_speed_and_memory(parser.add_argument_group("speed and memory"))
    _add_text(parser.add_argument_group("text encoder"))
    _add_processes(parser.add_argument_group("several GPUs"))


def _add_length(group) -> None:
    group.add_argument(
        "--train_batch_size", type=int, default=1, metavar="N", help="images per step on each GPU; 1 to 8 is usual (default: 1)"
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        metavar="N",
        help="batches whose gradients are added up for one optimizer step (default: 1)",
    )
    group.add_argument("--max_train_steps", type=int, default=1600, metavar="N", help="optimizer steps in all (default: 1600)")
    group.add_argument(
        "--max_train_epochs", type=int, default=None, metavar="N", help="passes over the data; replaces --max_train_steps (default: none)"
    )
    group.add_argument(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="start of all random numbers; the same seed gives the same LoRA (default: a random one, kept in the metadata)",
    )
    group.add_argument(
        "--initial_epoch",
        type=int,
        default=None,
        metavar="N",
        help="epoch to begin with, counted from 1 (default: 1, or where --resume left off)",
    )
    group.add_argument(
        "--initial_step",
        type=int,
        default=None,
        metavar="N",
        help="optimizer steps taken as done; wins over --initial_epoch (default: 0, or where --resume left off)",
    )
    group.add_argument(
        "--skip_until_initial_step",
        action="store_true",
        help="with --strict_compat, pass over the data of the steps taken as done; without it that is always so (default: off)",
    )


def _add_precision(group) -> None:
    group.add_argument(
        "--mixed_precision",
        type=str,
        default="no",
        choices=["no", "fp16", "bf16"],
        help="number format of most arithmetic; bf16 on newer GPUs, fp16 on older ones (default: no, 32 bit)",
    )
    group.add_argument(
        "--full_fp16", action="store_true", help="trained weights and gradients in fp16 too; needs --mixed_precision fp16 (default: off)"
    )
    group.add_argument(
        "--full_bf16", action="store_true", help="trained weights and gradients in bf16 too; needs --mixed_precision bf16 (default: off)"
    )
    group.add_argument(
        "--fp8_base", action="store_true", help="keep the frozen base model in 8 bit to save memory; needs mixed precision (default: off)"
    )
    group.add_argument(
        "--fp8_base_unet", action="store_true", help="keep only the frozen U-Net in 8 bit, the text encoders as they are (default: off)"
    )


def _add_speed_and_memory(group) -> None:
    group.add_argument("--xformers", action="store_true", help="attention by the xFormers package (default: off)")
    group.add_argument(
        "--sdpa", action="store_true", help="attention by PyTorch's scaled_dot_product_attention, needs nothing else (default: off)"
    )
    group.add_argument("--mem_eff_attn", action="store_true", help="slow attention that needs little memory (default: off)")
    group.add_argument(
        "--gradient_checkpointing",
        type=str,
        nargs="?",
        const=True,
        default=False,
        choices=("selective",),
        help="compute activations again instead of keeping them: much less memory, about a quarter slower; 'selective': norms and gates"
        " only, less memory at little cost (default: off)",
    )
    group.add_argument(
        "--cpu_offload_checkpointing", action="store_true", help="keep checkpointed activations in main memory (default: off)"
    )
    group.add_argument("--torch_compile", action="store_true", help="compile the model with torch.compile (default: off)")
    group.add_argument(
        "--dynamo_backend",
        type=str,
        default="inductor",
        choices=DYNAMO_BACKENDS,
        help="compiler behind --torch_compile (default: inductor)",
    )
    group.add_argument(
        "--max_data_loader_n_workers",
        type=int,
        default=8,
        metavar="N",
        help="processes that load images; 0 loads them in the training process (default: 8)",
    )
    group.add_argument(
        "--persistent_data_loader_workers",
        action="store_true",
        help="keep those processes between epochs: no pause, more memory (default: off)",
    )
    group.add_argument(
        "--lowram", action="store_true", help="load the model straight to the GPU, for machines with little main memory (default: off)"
    )
    group.add_argument(
        "--highvram", action="store_true", help="do not free GPU memory between batches while caching: faster (default: freed)"
    )


def _add_text(group) -> None:
    group.add_argument(
        "--clip_skip",
        type=int,
        default=None,
        metavar="N",
        help="use the Nth last layer of the SD 1.x text encoder; 2 for most anime models (default: 1)",
    )
    group.add_argument(
        "--max_token_length", type=int, default=None, choices=[None, 150, 225], help="longest caption in tokens (default: 75)"
    )


def _add_processes(group) -> None:
    group.add_argument(
        "--ddp_timeout",
        type=int,
        default=None,
        metavar="MINUTES",
        help="minutes a GPU waits for the others, also while these cache their share of the data (default: 180)",
    )
    group.add_argument(
        "--ddp_gradient_as_bucket_view",
        action="store_true",
        help="share memory between gradients and their exchange between GPUs (default: off)",
    )
    group.add_argument("--ddp_static_graph", action="store_true", help="tell PyTorch that every step uses the same weights (default: off)")
