"""A run on the GPU learns what it learns on the CPU, in every way in which it can save memory or time, and never waits for a value."""

import math
import sys
from contextlib import contextmanager

import pytest
import torch

from library.data.batch import Batch
from library.training import snapshots
from library.training.snapshots import on_host
from tests.gpu.draws import DrawsOnTheCPU
from tests.offline import device_of_tests
from tests.tiny_runs import arguments, picture_folder, prepared, small_run, trained

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("models_loaded_once", "gpu")]

FULL, HALF = 2e-3, 6e-2  # relative distance of losses: other kernels add up in another order, and four steps at a high rate widen it
RUNS = {
    "fp32": ([], FULL),
    "latents cached": (["--cache_latents"], FULL),
    "text encoder left alone": (["--network_train_unet_only"], FULL),
    "noise and weights of all kinds": (
        ["--noise_offset", "0.1", "--multires_noise_iterations", "3", "--ip_noise_gamma", "0.1", "--min_snr_gamma", "5"], FULL,
    ),
    "norms limited": (["--scale_weight_norms", "0.05"], FULL),
    "weighted captions": (["--weighted_captions", "--max_token_length", "150"], FULL),
    "gradients added up": (["--gradient_accumulation_steps", "2"], FULL),
    "blocks checkpointed": (["--gradient_checkpointing"], FULL),
    "checkpoints in main memory": (["--gradient_checkpointing", "--cpu_offload_checkpointing"], FULL),
    "norms and gates computed twice": (["--gradient_checkpointing", "selective"], FULL),
    "weights in main memory": (["--blocks_to_swap", "4"], FULL),
    "previews and validation": (["--sample_at_first", "--validation_split", "0.4", "--validate_every_n_steps", "2"], FULL),
    "Lion": (["--optimizer_type", "Lion", "--learning_rate", "1e-3"], FULL),
    "Prodigy": (["--optimizer_type", "Prodigy", "--learning_rate", "1"], FULL),
    "DAdaptAdam": (["--optimizer_type", "DAdaptAdam", "--learning_rate", "1"], FULL),
    "DAdaptation": (["--optimizer_type", "DAdaptation", "--learning_rate", "1"], FULL),
    "DAdaptLion": (["--optimizer_type", "DAdaptLion", "--learning_rate", "1"], FULL),
    "DAdaptSGD": (["--optimizer_type", "DAdaptSGD", "--learning_rate", "1"], FULL),
    "DAdaptAdan": (["--optimizer_type", "DAdaptAdan", "--learning_rate", "1"], FULL),
    "Adafactor": (["--optimizer_type", "Adafactor"], FULL),
    "LoHa": (["--network_module", "networks.loha"], FULL),
    "LoKr": (["--network_module", "networks.lokr"], FULL),
    "DoRA": (["--network_args", "dora_wd=True"], FULL),
    "convolutions too": (["--network_args", "conv_dim=4", "conv_alpha=1"], FULL),
    "bf16": (["--mixed_precision", "bf16"], HALF),
    "all in bf16": (["--mixed_precision", "bf16", "--full_bf16"], HALF),
    "frozen weights in 8 bits": (["--mixed_precision", "bf16", "--fp8_base"], HALF),
    "text encoders in 8 bits that left, previews": (
        ["--mixed_precision", "bf16", "--fp8_base", "--network_train_unet_only", "--sample_at_first"], HALF,
    ),
    "DoRA of weights in main memory": (["--network_args", "dora_wd=True", "conv_dim=2", "--blocks_to_swap", "4"], FULL),
}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_products():
    """fp32 is fp32: convolutions on newer cards would take 10 bits of each number."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def run_of(tiny_models, tmp_path):
    """Call it with a name and options: a prepared run of four steps."""
    data = picture_folder(tmp_path / "data", count=6, repeats=1)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("picture 1 --w 64 --h 64 --s 1", encoding="utf-8")

    def made(name: str, *options: str):
        looks = ["--sample_prompts", str(prompts)] if "--sample_at_first" in options else []
        with DrawsOnTheCPU():
            return small_run(tiny_models("sd1"), data, tmp_path / name, *options, *looks)

    return made


def losses(run) -> list[float]:
    with DrawsOnTheCPU():
        return [float(step.loss) for step in trained(run)]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_the_cpu(name, run_of, monkeypatch, tmp_path):
    options, limit = RUNS[name]
    run = run_of("gpu", *options)
    assert run.accelerator.device.type == "cuda"
    found = losses(run)
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        run = run_of("cpu", *options)
        assert run.accelerator.device.type == "cpu"
        assert found == pytest.approx(losses(run), rel=limit)
    if "--sample_at_first" in options:
        assert all(list((tmp_path / device / "sample").glob("*.png")) for device in ("gpu", "cpu"))


def test_sdxl_learns_what_it_learns_on_the_cpu(tiny_models, tmp_path, monkeypatch):
    data = picture_folder(tmp_path / "data", count=3, repeats=1)
    changes = {"network_train_unet_only": True, "cache_text_encoder_outputs": True, "cache_latents": True}

    def found(name: str) -> list[float]:
        with DrawsOnTheCPU():
            return losses(prepared("sdxl", arguments(tiny_models("sdxl"), data, tmp_path / name, **changes)))

    on_gpu = found("gpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert on_gpu == pytest.approx(found("cpu"), rel=FULL)


def test_recorded_steps_are_the_steps(run_of, capsys):
    options = ["--mixed_precision", "bf16", "--max_train_steps", "6"]
    recorded = losses(run_of("recorded", *options, "--cuda_graph", "auto"))
    assert capsys.readouterr().err.count("could not be recorded") == (2 if device_of_tests() == "pretend" else 0)
    assert recorded == pytest.approx(losses(run_of("plain", *options)), rel=HALF)


def test_a_run_goes_on_where_it_stood(run_of, tmp_path):
    options = ["--save_every_n_steps", "2", "--save_state"]
    whole = losses(run_of("whole", *options))
    resumed = run_of("resumed", *options, "--resume", str(tmp_path / "whole" / "lora-step00000002-state"))
    assert resumed.optimizer.param_groups[0]["fused"] is True
    assert losses(resumed) == pytest.approx(whole[2:], rel=FULL)


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW --optimizer_args fused=False", "Adafactor --optimizer_args relative_step=False"])
def test_fp16_leaves_out_steps_until_its_scale_fits_and_the_schedule_waits_for_it(optimizer, run_of, capsys):
    run = run_of("fp16", "--mixed_precision", "fp16", "--lr_scheduler", "linear", "--optimizer_type", *optimizer.split())
    run.accelerator.scaler._init_scale, run.accelerator.scaler._backoff_factor = 2.0**60, 2.0**-50
    made = []
    run.update_watchers.append(lambda update: made.append(update.made))
    assert all(math.isfinite(loss) for loss in losses(run))
    assert made == [False, True, True, True] and run.optimization.guard.skipped == 0
    assert run.lr_scheduler.last_epoch == 3
    assert {int(state.get("step", 3)) for state in run.optimization.built.optimizer.state.values()} == {3}
    assert "left out" not in capsys.readouterr().err


def test_a_bad_update_is_left_out_on_the_device(run_of, monkeypatch, capsys):
    from library.training import network_recipe

    real, steps = network_recipe.training_loss, iter(range(1, 99))

    def spoiled(*parts):
        loss, step = real(*parts)
        return (loss * math.nan, step) if next(steps) == 2 else (loss, step)

    monkeypatch.setattr(network_recipe, "training_loss", spoiled)
    run = run_of("spoiled")
    losses(run)
    assert "step 2: update left out, NaN or infinite values in gradient" in capsys.readouterr().err
    assert run.optimization.guard.skipped == 1
    assert all(torch.isfinite(parameter).all() for parameter in run.network.parameters())


def test_copies_for_a_rollback_lie_like_what_they_were_made_of(gpu):
    picture = torch.arange(96.0, device=gpu).view(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    kept = {"weights": [picture, torch.tensor([1, 2], device=gpu)], "step": torch.tensor(3.0, device=gpu), "host": torch.ones(2), "k": 5}
    copied = on_host(kept)
    torch.cuda.synchronize()
    found = [*copied["weights"], copied["step"], copied["host"]]
    for one, other in zip(found, [picture, kept["weights"][1], kept["step"], kept["host"]], strict=True):
        assert torch.equal(one, other.cpu()) and one.stride() == other.stride() and one.dtype == other.dtype
    assert copied["k"] == 5 and copied["step"].is_pinned()


def test_copies_for_a_rollback_lie_elsewhere_where_no_memory_can_be_pinned(gpu, monkeypatch):
    monkeypatch.setattr(snapshots, "PIECE", 3)
    whole = [torch.arange(float(size), device=gpu) for size in (2, 5, 1, 3)]
    real = torch.empty

    def refusing(*size, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*size, **options)

    for name, make in (("pinned", real), ("not pinned", refusing)):
        monkeypatch.setattr(torch, "empty", make)
        copied = on_host(whole)
        torch.cuda.synchronize()
        assert all(torch.equal(one, other.cpu()) for one, other in zip(copied, whole, strict=True))
        assert {one.is_pinned() for one in copied} == {name == "pinned"}


@pytest.mark.parametrize("place", [["--cache_latents"], ["--cache_latents_to_disk"]])
def test_small_caches_wait_on_the_gpu(place, run_of):
    batch = next(run_of("gpu", *place).loader.epoch(1))
    assert batch.latents.device.type == "cuda" and batch.loss_weights.device.type == "cpu"


def test_expanded_tensors_are_pinned_too():
    """torch itself cannot: several elements of such a tensor lie in one place."""
    batch = sample_batch(2)
    batch.target_sizes_hw = torch.tensor([[64, 64]]).expand(2, 2)
    pinned = batch.pin_memory()
    assert pinned.target_sizes_hw.is_pinned() and pinned.target_sizes_hw.tolist() == [[64, 64], [64, 64]]


def sample_batch(count: int) -> Batch:
    sizes = torch.full((count, 2), 64)
    return Batch(
        captions=["a"] * count, image_keys=["a.png"] * count, loss_weights=torch.ones(count), original_sizes_hw=sizes,
        crop_top_lefts=torch.zeros_like(sizes), target_sizes_hw=sizes, flipped=[False] * count, bucket=(64, 64),
    )  # fmt: skip


WITHOUT_WAITING = {
    "fp32": [],
    "bf16, latents cached": ["--mixed_precision", "bf16", "--cache_latents", "--min_snr_gamma", "5"],
    "noise of all kinds": ["--noise_offset", "0.1", "--multires_noise_iterations", "3", "--ip_noise_gamma", "0.1", "--loss_type", "huber"],
    "logged": ["--logging_dir", "logs", "--lr_scheduler", "cosine"],
    "weights in main memory": ["--blocks_to_swap", "4"],
    "norms limited": ["--scale_weight_norms", "0.05"],
    "fp16": ["--mixed_precision", "fp16"],
    "fp16, Lion": ["--mixed_precision", "fp16", "--optimizer_type", "Lion"],
    "Lion": ["--optimizer_type", "Lion"],
    "Adafactor": ["--optimizer_type", "Adafactor"],
    "Prodigy": ["--optimizer_type", "Prodigy", "--learning_rate", "1", "--optimizer_args", "use_bias_correction=True"],
    "DAdaptAdam, all in bf16": ["--optimizer_type", "DAdaptAdam", "--learning_rate", "1", "--mixed_precision", "bf16", "--full_bf16"],
    "DAdaptation": ["--optimizer_type", "DAdaptation", "--learning_rate", "1"],
    "DAdaptLion": ["--optimizer_type", "DAdaptLion", "--learning_rate", "1", "--logging_dir", "logs"],
    "DAdaptSGD": ["--optimizer_type", "DAdaptSGD", "--learning_rate", "1", "--optimizer_args", "weight_decay=0.1"],
    "DAdaptAdaGrad": ["--optimizer_type", "DAdaptAdaGrad", "--learning_rate", "1", "--optimizer_args", "weight_decay=0.1"],
    "DAdaptAdan": ["--optimizer_type", "DAdaptAdan", "--learning_rate", "1"],
    "DAdaptAdanIP": ["--optimizer_type", "DAdaptAdanIP", "--learning_rate", "1"],
    "dropouts": ["--network_dropout", "0.1", "--network_args", "rank_dropout=0.1", "module_dropout=0.1"],
}


@pytest.mark.parametrize("options", WITHOUT_WAITING.values(), ids=WITHOUT_WAITING.keys())
def test_the_host_waits_for_no_value_between_two_steps(options, run_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of("reads", *options, "--max_train_steps", "5")
    with waits_forbidden(run):
        trained(run)


@pytest.mark.skipif(device_of_tests() == "pretend", reason="bitsandbytes and Triton need a real GPU")
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_adamw8bit_waits_for_no_value_where_triton_runs(precision, run_of, tmp_path):
    pytest.importorskip("triton")
    run = run_of("reads", "--optimizer_type", "AdamW8bit", "--mixed_precision", precision, "--max_train_steps", "5")
    with waits_forbidden(run):
        trained(run)


@pytest.mark.skipif(device_of_tests() != "pretend", reason="counts of the pretended GPU")
def test_the_pretended_gpu_counts_what_a_host_waits_for(gpu):
    import pretend_gpu

    def waits(work) -> int:
        before = pretend_gpu.host_reads()
        work()
        return pretend_gpu.host_reads() - before

    x, places = torch.arange(4.0, device=gpu), torch.zeros(2, dtype=torch.long).to(gpu)
    assert [waits(work) for work in (x.sum().item, x.cpu, x.nonzero, lambda: x[x > 1], lambda: torch.ones(3).to(gpu))] == [1] * 5
    assert [waits(work) for work in (x.neg, lambda: x[places], lambda: torch.ones(3).to(gpu, non_blocking=True))] == [0] * 3
    sent = x.to("cpu", non_blocking=True)
    assert sent.tolist() == [113.0] * 4
    torch.cuda.synchronize()
    assert sent.tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)


@contextmanager
def waits_forbidden(run):
    """From the third step to the fifth the host may not wait for the GPU: torch raises where it would, the pretended GPU counts."""
    waits = []

    def watch(step) -> None:
        waits.append(waits_so_far())
        forbid_waits(3 <= len(waits) < 5)

    run.watchers.append(watch)
    try:
        yield
    finally:
        forbid_waits(False)
    assert len(waits) == 5 and waits[4] == waits[2]


def waits_so_far() -> int:
    """As the pretended GPU counts them; a real one does not count."""
    return sys.modules["pretend_gpu"].host_reads() if device_of_tests() == "pretend" else 0


def forbid_waits(forbidden: bool) -> None:
    """Lets a real GPU raise where the host would wait; the pretended one knows no such mode."""
    if device_of_tests() == "cuda":
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")
