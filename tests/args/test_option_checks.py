"""Each combination of options that cannot work is refused by name before anything is loaded; odd ones are mended or warned of."""

import logging
from argparse import Namespace

import pytest

from library.args.check_numbers import face_crop_aug_range, resolution
from library.args.checks import check
from library.args.errors import BadArguments, mistakes_end_the_program
from library.args.names import LR_SCHEDULERS, OPTIMIZERS
from library.args.normalise import normalise
from library.args.parser import default_values, setup_parser
from library.args.reading import read_args


@pytest.fixture
def checked(files):
    """Call it with option values that differ from a plain good run: the options as a run would get them."""

    def run(script: str = "train_network", typed: tuple[str, ...] = (), **options):
        plain = {
            "pretrained_model_name_or_path": str(files["MODEL"]),
            "train_data_dir": str(files["DATA"]),
            "output_dir": str(files["OUT"]),
            "network_module": "networks.lora",
            "resolution": "512",
        }
        args = Namespace(**default_values(setup_parser(script)) | plain | options)
        normalise(args, script, typed)
        check(args, script)
        return args

    return run


def test_a_plain_run_passes_without_a_warning(checked, caplog):
    checked()
    assert not caplog.records


REFUSED = [
    ({"pretrained_model_name_or_path": None}, "--pretrained_model_name_or_path is missing"),
    ({"pretrained_model_name_or_path": ""}, "--pretrained_model_name_or_path is missing"),
    ({"pretrained_model_name_or_path": "model-that-is-not-there.safetensors"}, "there is no such file or folder"),
    ({"pretrained_model_name_or_path": "./folder"}, "there is no such file or folder"),
    ({"pretrained_model_name_or_path": "/models/of/mine"}, "there is no such file or folder"),
    ({"pretrained_model_name_or_path": "C:\\models\\mine"}, "there is no such file or folder"),
    ({"vae": "vae-that-is-not-there.pt"}, "--vae vae-that-is-not-there.pt"),
    ({"network_module": None}, "--network_module is missing"),
    ({"output_dir": None}, "--output_dir is missing"),
    ({"output_dir": "{MODEL}"}, "is a file: give a folder"),
    ({"logging_dir": "{MODEL}"}, "is a file: give a folder"),
    ({"output_name": "a/b"}, "--output_name 'a/b' holds a folder"),
    ({"train_data_dir": None}, "no images are named"),
    ({"train_data_dir": ""}, "no images are named"),
    ({"train_data_dir": "no-such-folder"}, "--train_data_dir no-such-folder"),
    ({"train_data_dir": "{MODEL}"}, "there is no such folder"),
    ({"reg_data_dir": "no-such-folder"}, "--reg_data_dir no-such-folder"),
    ({"in_json": "none.json"}, "--in_json none.json"),
    ({"dataset_config": "none.toml"}, "--dataset_config none.toml"),
    ({"resolution": None}, "--resolution is missing"),
    ({"resolution": "512x512"}, "--resolution 512x512: give one number"),
    ({"resolution": "512,512,3"}, "give one number"),
    ({"resolution": "0"}, "give one number"),
    ({"skip_image_resolution": "big"}, "--skip_image_resolution big"),
    ({"face_crop_aug_range": "4,2"}, "--face_crop_aug_range 4,2"),
    ({"network_weights": "none.safetensors"}, "--network_weights none.safetensors"),
    ({"base_weights": ["none.safetensors"]}, "--base_weights none.safetensors"),
    ({"base_weights_multiplier": [1.0]}, "--base_weights_multiplier has 1 more"),
    ({"dim_from_weights": True}, "--dim_from_weights"),
    ({"log_with": "tensorboard"}, "--log_with tensorboard needs a folder"),
    ({"log_with": "all"}, "--log_with all needs a folder"),
    ({"log_tracker_config": "none.toml"}, "--log_tracker_config none.toml"),
    ({"train_batch_size": 0}, "--train_batch_size 0: give 1 or more"),
    ({"max_train_steps": 0}, "--max_train_steps 0"),
    ({"max_train_epochs": 0}, "--max_train_epochs 0"),
    ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0"),
    ({"network_dim": 0}, "--network_dim 0"),
    ({"network_dropout": 1.5}, "--network_dropout 1.5: give a value from 0 to 1"),
    ({"save_every_n_steps": 0}, "--save_every_n_steps 0"),
    ({"clip_skip": 0}, "--clip_skip 0"),
    ({"seed": -1}, "--seed -1"),
    ({"text_encoder_lr": [1e-4, -1.0]}, "--text_encoder_lr -1.0"),
    ({"caption_dropout_rate": 5}, "--caption_dropout_rate 5"),
    ({"lr_scheduler_min_lr_ratio": 1.5}, "--lr_scheduler_min_lr_ratio 1.5"),
    ({"min_timestep": 500, "max_timestep": 400}, "--min_timestep 500 is above --max_timestep 400"),
    ({"max_timestep": 1001}, "--max_timestep 1001"),
    ({"network_alpha": -1.0}, "--network_alpha -1.0: give a number above 0"),
    ({"lr_scheduler": "cosin"}, "did you mean cosine?"),
    ({"lr_scheduler": "reduce_lr_on_plateau"}, "there is no such schedule"),
    ({"lr_scheduler": "adafactor"}, "--lr_scheduler adafactor works with --optimizer_type Adafactor"),
    ({"lr_scheduler": "cosine", "lr_warmup_steps": 1.5}, "as a share it must be 1 or less"),
    ({"optimizer_type": "adamw8bits"}, "did you mean AdamW8bit?"),
    ({"optimizer_type": "Prodigi"}, "did you mean Prodigy?"),
    ({"optimizer_type": "sgd"}, "did you mean SGD?"),
    ({"optimizer_type": "whatever"}, "there is no such optimizer"),
    ({"use_8bit_adam": True, "optimizer_type": "AdamW"}, "--use_8bit_adam is an old form"),
    ({"use_lion_optimizer": True, "optimizer_type": "AdamW"}, "--use_lion_optimizer is an old form"),
    ({"use_8bit_adam": True, "use_lion_optimizer": True}, "exclude each other"),
    ({"network_args": ["conv_dim", "4"]}, "--network_args 'conv_dim' is not of the form key=value"),
    ({"optimizer_args": ["=0.1"]}, "--optimizer_args '=0.1'"),
    ({"lr_scheduler_args": ["T_max:3"]}, "--lr_scheduler_args 'T_max:3'"),
    ({"cache_latents": True, "color_aug": True}, "--color_aug changes it at every step"),
    ({"cache_latents_to_disk": True, "random_crop": True}, "--random_crop changes it at every step"),
    ({"full_fp16": True}, "--full_fp16 needs --mixed_precision fp16, but that is no"),
    ({"full_bf16": True, "mixed_precision": "fp16"}, "--full_bf16 needs --mixed_precision bf16"),
    ({"adaptive_noise_scale": 0.01}, "--adaptive_noise_scale 0.01 adds to --noise_offset"),
    ({"scale_v_pred_loss_like_noise_pred": True}, "add --v_parameterization"),
    ({"v_pred_like_loss": 0.5, "v_parameterization": True}, "--v_pred_like_loss 0.5 is for noise prediction"),
    ({"fused_backward_pass": True}, "works with --optimizer_type Adafactor only"),
    ({"fused_backward_pass": True, "optimizer_type": "Adafactor", "gradient_accumulation_steps": 2}, "cannot add up gradients"),
    ({"enable_bucket": True, "bucket_reso_steps": 32}, "needs a multiple of 64"),
    ({"enable_bucket": True, "min_bucket_reso": 2048}, "--min_bucket_reso 2048 is above"),
    ({"network_train_unet_only": True, "network_train_text_encoder_only": True}, "leave nothing to train"),
]


@pytest.mark.parametrize(
    ("options", "message"), REFUSED, ids=lambda item: "-".join(map(str, item.values())) if isinstance(item, dict) else ""
)
def test_what_cannot_work_is_refused_by_name(options, message, checked, files):
    options = {name: str(files["MODEL"]) if value == "{MODEL}" else value for name, value in options.items()}
    with pytest.raises(BadArguments) as error:
        checked(**options)
    assert message in str(error.value)


REFUSED_BY_SCRIPT = [
    ("train_network", {"resume": "no-such-folder"}, "--resume no-such-folder"),
    ("train_network", {"sample_every_n_steps": 5}, "add --sample_prompts"),
    ("train_network", {"sample_at_first": True, "sample_prompts": "none.txt"}, "--sample_prompts none.txt"),
    ("train_network", {"fp8_base": True}, "--fp8_base needs mixed precision"),
    ("train_network", {"fp8_base_unet": True}, "--fp8_base_unet needs mixed precision"),
    ("sdxl_train_network", {"cache_text_encoder_outputs": True}, "add --network_train_unet_only"),
    (
        "sdxl_train_network",
        {"cache_text_encoder_outputs_to_disk": True, "network_train_unet_only": True, "shuffle_caption": True},
        "--shuffle_caption changes it",
    ),
    (
        "sdxl_train_network",
        {"cache_text_encoder_outputs": True, "network_train_unet_only": True, "caption_dropout_rate": 0.1},
        "--caption_dropout_rate changes it",
    ),
]


@pytest.mark.parametrize(("script", "options", "message"), REFUSED_BY_SCRIPT)
def test_what_a_script_cannot_do_is_refused_by_name(script, options, message, checked):
    with pytest.raises(BadArguments) as error:
        checked(script, **options)
    assert message in str(error.value)


def test_cached_captions_pass_when_they_are_always_the_same(checked):
    assert checked("sdxl_train_network", cache_text_encoder_outputs_to_disk=True, network_train_unet_only=True).cache_text_encoder_outputs


def test_v2_is_refused_for_sdxl(checked):
    with pytest.raises(BadArguments, match="SDXL: leave --v2 out"):
        checked("sdxl_train_network", v2=True)


def test_prompts_of_the_gui_without_previews_do_not_stop_a_run(checked):
    assert checked(sample_prompts="out/sample/prompt.txt", sample_sampler="euler_a")


def test_all_mistakes_are_told_at_once(checked):
    with pytest.raises(BadArguments) as error:
        checked(network_module=None, train_batch_size=0, full_fp16=True)
    assert str(error.value).count("\nerror: ") == 2


ACCEPTED = [
    {"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5"},
    {"pretrained_model_name_or_path": "model-on-the-hub"},
    {"vae": "stabilityai/sd-vae-ft-mse"},
    {"max_train_steps": 0, "max_train_epochs": 3},
    {"optimizer_type": "RAdam"},
    {"optimizer_type": "adaFACTOR", "optimizer_args": ["relative_step=False"]},
    {"optimizer_type": "SomethingNew2027"},
    {"optimizer_type": "bitsandbytes.optim.AdEMAMix8bit"},
    {"use_lion_optimizer": True},
    {"lr_scheduler": "adafactor", "optimizer_type": "Adafactor"},
    {"lr_scheduler": "whatever", "lr_scheduler_type": "CosineAnnealingLR"},
    {"lr_scheduler": "whatever", "optimizer_type": "AdamWScheduleFree"},
    {"min_timestep": 0, "max_timestep": 1000},
    {"min_timestep": 500, "max_timestep": 500},
    {"network_alpha": 0, "max_grad_norm": 0, "min_snr_gamma": 0},
    {"text_encoder_lr": [0.0]},
    {"noise_offset": 0.05, "multires_noise_iterations": 6},
    {"enable_bucket": True, "bucket_reso_steps": 128},
    {"bucket_reso_steps": 8},
    {"network_args": ["network_reg_lrs=a=1e-4,b=2e-4"]},
    {"reg_data_dir": ""},
    {"log_with": "wandb"},
]


@pytest.mark.parametrize("options", ACCEPTED, ids=lambda item: "-".join(map(str, item.values())))
def test_what_works_is_let_through(options, checked):
    checked(**options)


def test_sdxl_takes_bucket_steps_of_32(checked):
    assert checked("sdxl_train_network", enable_bucket=True, bucket_reso_steps=32).bucket_reso_steps == 32


def test_a_dataset_config_replaces_folders_and_resolution(checked, files):
    assert checked(dataset_config=files["DATASET_TOML"], train_data_dir=None, resolution=None)


MENDED = [
    ({"bucket_reso_steps": 1}, {"bucket_reso_steps": 64}, "--bucket_reso_steps 1"),
    ({"lr_warmup_steps": 0.1}, {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 0.1}, "using constant_with_warmup"),
    ({"lr_warmup_steps": 0.1, "lr_scheduler_type": "StepLR"}, {"lr_warmup_steps": 0}, "StepLR has no warm-up"),
    ({"lr_warmup_steps": 0.1, "optimizer_type": "Adafactor"}, {"lr_warmup_steps": 0}, "warms up by itself"),
    ({"cache_latents_to_disk": True}, {"cache_latents": True}, "so --cache_latents is on too"),
    (
        {"persistent_data_loader_workers": True, "max_data_loader_n_workers": 0},
        {"persistent_data_loader_workers": False},
        "--persistent_data_loader_workers has nothing to keep",
    ),
    ({"sample_every_n_steps": 0}, {"sample_every_n_steps": None}, "no previews are drawn"),
    ({"validation_split": 1.5}, {"validation_split": 0.0}, "no share between 0 and 1"),
]


@pytest.mark.parametrize(("options", "result", "message"), MENDED, ids=lambda item: "-".join(item) if isinstance(item, dict) else "")
def test_what_can_be_understood_is_mended_with_one_warning(options, result, message, checked, caplog):
    args = vars(checked(**options))
    assert {name: args[name] for name in result} == result
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and message in record.getMessage()


@pytest.mark.parametrize("options", [{}, {"lr_scheduler_type": "StepLR"}])
def test_a_warmup_typed_by_hand_beside_a_schedule_without_one_is_refused(options, checked):
    with pytest.raises(BadArguments, match="--lr_warmup_steps 100"):
        checked(typed=("lr_warmup_steps",), lr_warmup_steps=100, **options)


def test_adafactor_drops_even_a_typed_warmup(checked):
    assert checked(typed=("lr_warmup_steps",), lr_warmup_steps=100, optimizer_type="Adafactor").lr_warmup_steps == 0


WARNED = [
    ("train_network", {"v2": True, "clip_skip": 2}, "--clip_skip 2 is unusual with --v2"),
    ("sdxl_train_network", {"clip_skip": 2}, "--clip_skip 2 has no effect"),
    ("train_network", {"zero_terminal_snr": True}, "--zero_terminal_snr"),
    ("train_network", {"masked_loss": True}, "--masked_loss finds no masks"),
]


@pytest.mark.parametrize(("script", "options", "message"), WARNED)
def test_what_has_no_effect_is_warned_of(script, options, message, checked, caplog):
    checked(script, **options)
    assert message in caplog.text


def test_clip_skip_1_of_the_gui_is_no_reason_to_warn(checked, caplog):
    checked("sdxl_train_network", clip_skip=1)
    assert not caplog.records


def test_the_old_spelling_of_caption_extension_wins(checked):
    assert checked(caption_extention=".tag").caption_extension == ".tag"


def test_empty_paths_mean_none(checked):
    args = checked(vae="", reg_data_dir="", logging_dir="")
    assert (args.vae, args.reg_data_dir, args.logging_dir) == (None, None, None)


def test_the_names_refused_and_let_through_are_those_that_can_be_built():
    from library.optim.curves import CURVES
    from library.optim.optimizers import OPTIMIZERS as BUILT

    assert {name.lower() for name in OPTIMIZERS} == set(BUILT)
    assert set(LR_SCHEDULERS) - {"adafactor"} == set(CURVES)


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("768,512", (768, 512)), (" 640 , 480 ", (640, 480))])
def test_a_resolution_is_width_first(text, size):
    assert resolution(text) == size


def test_a_face_crop_range_is_two_factors():
    assert face_crop_aug_range("2.0,4.0") == (2.0, 4.0)


def test_bad_options_end_with_status_1_and_one_line_each(capsys):
    with pytest.raises(SystemExit) as end:
        read_args(setup_parser("train_network"), "train_network", [])
    assert end.value.code == 1
    assert all(line.startswith(("error: --", "error: no images")) for line in capsys.readouterr().err.splitlines())


def test_a_mistake_found_later_ends_with_status_1_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as end, mistakes_end_the_program():
        raise ValueError("--train_data_dir x holds no images")
    assert end.value.code == 1
    assert "Traceback" not in (error := capsys.readouterr().err) and error.startswith("error: --train_data_dir x holds no images\n")


def test_a_mistake_shows_its_traceback_at_debug_level(caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SystemExit), mistakes_end_the_program():
        raise ValueError("wrong")
    assert "Traceback" in caplog.text


def test_other_exceptions_pass(capsys):
    with pytest.raises(RuntimeError), mistakes_end_the_program():
        raise RuntimeError("ours")
