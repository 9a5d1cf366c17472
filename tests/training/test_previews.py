"""Pictures drawn during training: names, text, the same as diffusers draws, and nothing else changes."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import nn

from library.models.samplers import make_sampler
from library.models.sd import SD
from library.models.sdxl import SDXL
from library.training.preview_painter import Painter
from library.training.preview_prompts import PreviewPrompt
from library.training.previews import Previews, PreviewSettings, read_prompts
from library.training.undisturbed import in_eval_mode, unchanged_random_states

PROMPT = PreviewPrompt(0, "a cat", 64, 72, negative_prompt="a dog", seed=5, steps=2, scale=4.0, sampler="euler_a")


def test_pictures_are_named_by_step_index_time_and_seed(looked_at):
    names = sorted(path.name for path in (looked_at(True).out / "sample").iterdir())
    marks = [re.sub(r"_20\d{12}", "_TIME", name) for name in names]
    assert marks == [f"lora_{mark}_{picture}" for mark in ("000002", "000004", "e000000") for picture in ("00_TIME_5.png", "01_TIME.png")]


def test_a_picture_tells_how_it_was_made(looked_at):
    (path,) = (looked_at(True).out / "sample").glob("lora_000002_00_*.png")
    with Image.open(path) as picture:
        assert picture.size == (64, 72)
        assert picture.info["parameters"] == (
            "a (thing:1.3)\nNegative prompt: blurry\nSteps: 1, Sampler: Euler a, CFG scale: 7.5, Seed: 5, Size: 64x72, "
            "Model: model_sd1, Network: lora, Training step: 2, Training epoch: 1"
        )


def test_training_goes_on_as_if_nobody_had_looked(looked_at):
    watched, alone = looked_at(True), looked_at(False)
    assert watched.losses == alone.losses and len(alone.losses) == 4
    assert all(torch.equal(weight, alone.weights[name]) for name, weight in watched.weights.items())
    assert watched.run.network.training


def test_pictures_show_what_was_learned(looked_at):
    (before,) = (looked_at(True).out / "sample").glob("lora_e000000_00_*.png")
    (after,) = (looked_at(True).out / "sample").glob("lora_000004_00_*.png")
    with Image.open(before) as one, Image.open(after) as other:
        assert one.tobytes() != other.tobytes()


def test_pictures_are_logged_to_tensorboard(looked_at):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (looked_at(True).out.parent / "logs").rglob("*network_train/events*")
    log = EventAccumulator(str(events)).Reload()
    assert sorted(log.Tags()["images"]) == ["sample_0", "sample_1"]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_picture_is_the_one_that_diffusers_draws(tiny_models, kind):
    family = SDXL() if kind == "sdxl" else SD()
    models = family.load(str(tiny_models(kind)))
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    painter = Painter([PROMPT], family, models, accelerator, weight_dtype=torch.float32, keeps_text_states=True)
    states, negative = (family.encode_text(models.text_encoders, family.tokenize([text])) for text in ("a cat", "a dog"))
    sampler = make_sampler("euler_a", "epsilon")
    parts = {"unet": models.unet, "vae": models.vae, "scheduler": sampler, "tokenizer": None, "text_encoder": None}
    if kind == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, tokenizer_2=None, text_encoder_2=None, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = sampler  # the constructor changed it
    expected = pipeline(
        **states, **{f"negative_{name}": state for name, state in negative.items()}, width=64, height=72, num_inference_steps=2,
        guidance_scale=4.0, generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(painter.latents(PROMPT) * family.latents.scaling_factor, expected, rtol=1e-3, atol=1e-3)


class CountingPainter:
    """Stands where a Painter would; notes what it is asked for and draws grey, but nothing for the index `fails`."""

    def __init__(self, fails: int | None = None):
        self.seeds, self.modes, self.fails = [], [], fails

    def latents(self, prompt):
        self.seeds.append(prompt.seed)
        return None if prompt.index == self.fails else torch.rand(1)

    def pictures(self, prompts, all_latents):
        return [None if latents is None else Image.new("RGB", (8, 8)) for latents in all_latents]


def previews(folder, painter, *, rank: int = 0, world: int = 1, **settings) -> Previews:
    accelerator = SimpleNamespace(
        process_index=rank, num_processes=world, is_main_process=True, is_local_main_process=True, device=torch.device("cpu"), trackers=[]
    )
    prompts = [PreviewPrompt(index, f"number {index}", 64, 64, seed=index or None, sampler="ddim") for index in range(5)]
    return Previews(prompts, PreviewSettings(folder, None, "model", **settings), painter, [nn.Dropout()], accelerator)


def indices(folder) -> list[str]:
    return sorted(path.name.split("_")[1] for path in folder.iterdir())


def test_processes_share_the_prompts(tmp_path):
    for rank in range(2):
        previews(tmp_path / str(rank), CountingPainter(), rank=rank, world=2, at_first=True).at_start(0)
    assert [indices(tmp_path / str(rank)) for rank in range(2)] == [["00", "02", "04"], ["01", "03"]]


def test_a_run_that_goes_on_has_no_pictures_of_its_start(tmp_path):
    painter = CountingPainter()
    previews(tmp_path, painter, at_first=True).at_start(7)
    assert not painter.seeds


def test_without_an_output_name_names_begin_with_the_epoch(tmp_path):
    looked = previews(tmp_path, CountingPainter(), every_n_epochs=2, every_n_steps=1)
    for epoch in (1, 2, 3):
        looked.after_step(epoch, epoch)
        looked.after_epoch(epoch, epoch)
    assert {path.name.split("_")[0] for path in tmp_path.iterdir()} == {"e000002"}


def test_a_prompt_without_seed_is_another_picture_each_time(tmp_path):
    painter = CountingPainter()
    looked = previews(tmp_path, painter, every_n_steps=1)
    looked.after_step(1, 1)
    looked.after_step(2, 1)
    assert painter.seeds[0] != painter.seeds[5] and painter.seeds[1:5] == painter.seeds[6:] == [1, 2, 3, 4]


def test_a_picture_that_does_not_fit_is_left_out(tmp_path):
    previews(tmp_path, CountingPainter(fails=3), at_first=True).at_start(0)
    assert indices(tmp_path) == ["00", "01", "02", "04"]


def test_a_preview_that_fails_is_told_and_training_goes_on(tiny_models, caplog):
    """diffusers' pndm needs four steps."""
    family = SD()
    models, accelerator = family.load(str(tiny_models("sd1"))), Accelerator(cpu=True, mixed_precision="no")
    prompt = replace(PROMPT, sampler="pndm", steps=3)
    painter = Painter([prompt], family, models, accelerator, weight_dtype=torch.float32, keeps_text_states=False)
    assert painter.latents(prompt) is None
    assert "preview 0 could not be drawn with 3 steps of pndm (" in caplog.text and "training goes on" in caplog.text


def test_random_states_and_modes_are_put_back():
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    torch.manual_seed(1)
    expected = torch.Generator().manual_seed(1)
    with unchanged_random_states(torch.device("cpu")), in_eval_mode(module):
        torch.manual_seed(99)
        assert not module[0].training
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    assert (module.training, module[0].training, module[1].training) == (True, True, False)


@pytest.mark.parametrize(("strict", "family", "size"), [(False, SD(), 512), (False, SDXL(), 1024), (True, SDXL(), 512)])
def test_pictures_have_the_size_of_the_model(tmp_path, strict, family, size):
    (tmp_path / "p.txt").write_text("a cat")
    args = SimpleNamespace(
        sample_prompts=str(tmp_path / "p.txt"), sample_every_n_steps=5, sample_every_n_epochs=None, sample_at_first=False,
        sample_sampler="k_euler", strict_compat=strict,
    )  # fmt: skip
    (prompt,) = read_prompts(args, family)
    assert (prompt.width, prompt.height, prompt.sampler) == (size, size, "euler")
