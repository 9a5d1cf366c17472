"""Options for DeepSpeed: one model spread over several GPUs. They count only together with --deepspeed."""

from argparse import ArgumentParser


def add_deepspeed_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("DeepSpeed")
    group.add_argument("--deepspeed", action="store_true", help="train with DeepSpeed (default: off)")
    group.add_argument(
        "--zero_stage",
        type=int,
        default=2,
        choices=[0, 1, 2, 3],
        help="what is spread: 1 optimizer states, 2 gradients too, 3 weights too (default: 2)",
    )
    group.add_argument(
        "--offload_optimizer_device",
        type=str,
        default=None,
        choices=[None, "cpu", "nvme"],
        help="keep optimizer states there, stages 2 and 3 (default: on the GPU)",
    )
    group.add_argument(
        "--offload_optimizer_nvme_path",
        type=str,
        default=None,
        metavar="FOLDER",
        help="folder on the nvme disk for optimizer states (default: none)",
    )
    group.add_argument(
        "--offload_param_device",
        type=str,
        default=None,
        choices=[None, "cpu", "nvme"],
        help="keep weights there, stage 3 (default: on the GPU)",
    )
    group.add_argument(
        "--offload_param_nvme_path", type=str, default=None, metavar="FOLDER", help="folder on the nvme disk for weights (default: none)"
    )
    group.add_argument("--zero3_init_flag", action="store_true", help="build the model spread out from the start, stage 3 (default: off)")
    group.add_argument("--zero3_save_16bit_model", action="store_true", help="gather 16 bit weights when saving, stage 3 (default: off)")
    group.add_argument(
        "--fp16_master_weights_and_gradients",
        action="store_true",
        help="master weights and gradients in fp16; stage 2 with the optimizer on the CPU (default: off)",
    )
