from argparse import Namespace

import pytest
import torch

from library.args.parser import default_values, setup_parser
from library.training.memory_shortage import OutOfMemory, memory_shortage_explained, savings


def options(script="train_network", **changed) -> Namespace:
    return Namespace(**default_values(setup_parser(script)) | changed)


def backward():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_the_message_names_the_work_and_the_cheapest_option_first():
    with pytest.raises(OutOfMemory) as shortage, memory_shortage_explained(options(train_batch_size=4)):
        backward()
    message = str(shortage.value)
    assert "GPU memory ran out during the backward pass" in message
    assert message.index("--cache_latents") < message.index("--gradient_checkpointing") < message.index("--gradient_accumulation_steps 4")


def test_options_in_use_are_not_advised():
    used = {"cache_latents": True, "sdpa": True, "mixed_precision": "bf16", "gradient_checkpointing": True, "optimizer_type": "Lion"}
    text = " ".join(savings(options(**used)))
    assert not any(option in text for option in ("--cache_latents", "--sdpa", "--mixed_precision", "--gradient_checkpointing", "8bit"))


def test_cached_text_is_advised_where_it_is_possible():
    assert "--cache_text_encoder_outputs" in " ".join(savings(options("sdxl_train_network", network_train_unet_only=True)))
    assert "--cache_text_encoder_outputs" not in " ".join(savings(options("sdxl_train_network")))


def test_main_memory_is_told_apart():
    with pytest.raises(OutOfMemory, match="main memory ran out"), memory_shortage_explained(options()):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_other_faults_pass_unchanged():
    with pytest.raises(RuntimeError, match="shapes"), memory_shortage_explained(options()):
        raise RuntimeError("shapes differ")


def test_a_shortage_of_pinned_memory_is_no_fault_of_the_gpu():
    with pytest.raises(OutOfMemory, match="CUDA error: out of memory"), memory_shortage_explained(options()):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
