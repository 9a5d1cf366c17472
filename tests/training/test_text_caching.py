import pytest
import torch

from library.models.sdxl import SDXL
from library.models.stored_weights import store_weights
from library.training import text_caching
from tests.tiny_runs import arguments, picture_folder, prepared, trained

pytestmark = pytest.mark.usefixtures("models_loaded_once")

UNET_ONLY = {"network_train_unet_only": True, "cache_latents": True}


@pytest.fixture
def command(tiny_models, tmp_path):
    """A function: script and options -> the command line of a short run in a folder of its own."""
    data = picture_folder(tmp_path / "data")

    def build(script: str, **changes) -> list[str]:
        model = tiny_models({"sd": "sd1", "sdxl": "sdxl"}[script])
        return arguments(model, data, tmp_path / "out", **changes)

    return build


def losses(run) -> list[float]:
    return [float(step.loss) for step in trained(run)]


def devices_and_types(run) -> set:
    return {(p.device.type, p.dtype) for text_encoder in run.models.text_encoders for p in text_encoder.parameters()}


@pytest.mark.parametrize("script", ["sd", "sdxl"])
def test_captions_that_never_change_are_encoded_once_and_no_number_changes(command, script, monkeypatch, capsys):
    argv = command(script, max_train_steps=2, **UNET_ONLY)
    run = prepared(script, argv)
    assert "text encoder outputs are cached in memory, the text encoders leave the device" in capsys.readouterr().err
    monkeypatch.setattr(run.family.__class__, "encode_text", lambda *args: pytest.fail("captions were encoded while training"))
    with_cache = losses(run)
    monkeypatch.undo()
    monkeypatch.setattr(text_caching, "UNASKED_LIMIT", 0)
    run = prepared(script, argv)
    assert not run.train_data.has_cached_text_states
    assert with_cache == pytest.approx(losses(run), rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"network_train_unet_only": None},
        {"shuffle_caption": True},
        {"caption_tag_dropout_rate": 0.1},
        {"caption_dropout_rate": 0.1},
        {"caption_dropout_every_n_epochs": 2},
        {"token_warmup_step": 5},
        {"enable_wildcard": True},
    ],
)
def test_nothing_is_cached_unasked_that_training_would_change(command, changes):
    run = prepared("sd", command("sd", **UNET_ONLY | changes))
    assert not run.train_data.has_cached_text_states


@pytest.mark.parametrize("to_disk", [None, True])
def test_text_encoders_wait_on_the_cpu_in_fp32_once_their_outputs_are_cached(command, to_disk):
    options = UNET_ONLY | {"cache_text_encoder_outputs": True, "cache_text_encoder_outputs_to_disk": to_disk}
    run = prepared("sdxl", command("sdxl", mixed_precision="bf16", max_train_steps=1, **options))
    assert devices_and_types(run) == {("cpu", torch.float32)}
    states = trained(run)[0].batch.text_states
    assert {tuple(state.shape[:2]) for state in states.values()} == {(2, 77), (2, 64)}


def test_variants_make_shuffling_and_dropout_possible_with_a_cache(command, tmp_path):
    options = UNET_ONLY | {"cache_text_encoder_outputs_to_disk": True, "shuffle_caption": True, "caption_dropout_rate": 0.3}
    run = prepared("sdxl", command("sdxl", text_encoder_cache_variants=3, **options))
    captions = {caption for epoch in (1, 2) for batch in run.loader.epoch(epoch, first_step=0) for caption in batch.captions}
    assert "" in captions and len(captions) > 4
    assert len(list((tmp_path / "data").rglob("*_te_outputs.npz"))) == 9


def test_variants_in_memory_are_there_for_sd_too(command):
    run = prepared("sd", command("sd", text_encoder_cache_variants=2, shuffle_caption=True, **UNET_ONLY))
    assert run.train_data.has_cached_text_states
    assert all(len(record.cached_text.captions) == 2 for record in run.train_data.datasets[0].records.values())


def test_images_held_out_for_validation_have_one_caption_beside_the_variants_of_others(command, tmp_path):
    options = UNET_ONLY | {"cache_text_encoder_outputs_to_disk": True, "shuffle_caption": True, "validation_split": 0.4}
    prepared("sdxl", command("sdxl", text_encoder_cache_variants=2, **options))
    names = sorted(path.name.split("_", 1)[1] for path in (tmp_path / "data").rglob("*_te_outputs.npz"))
    assert names == ["te_outputs.npz", *["v0_te_outputs.npz"] * 2, *["v1_te_outputs.npz"] * 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shuffle_caption": True, "cache_text_encoder_outputs": True}, "--text_encoder_cache_variants 8"),
        ({"token_warmup_step": 4, "text_encoder_cache_variants": 2}, "cannot follow --token_warmup_step 4"),
        ({"text_encoder_cache_variants": 0}, "give the number of variants"),
        ({"text_encoder_cache_variants": 2, "network_train_unet_only": None}, "add --network_train_unet_only"),
    ],
)
def test_what_a_cache_cannot_do_is_refused_with_the_way_out(command, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared("sdxl", command("sdxl", **UNET_ONLY | changes))


def test_captions_of_a_dataset_config_that_change_are_refused_before_a_model_is_loaded(command, tmp_path, monkeypatch):
    config = tmp_path / "data.toml"
    folder = (tmp_path / "data" / "4_thing").as_posix()
    config.write_text(f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = '{folder}'\nshuffle_caption = true\n")
    monkeypatch.setattr(SDXL, "load", lambda *args, **options: pytest.fail("a model was loaded"))
    argv = command("sdxl", dataset_config=config, train_data_dir=None, cache_text_encoder_outputs=True, **UNET_ONLY)
    with pytest.raises(ValueError, match="--shuffle_caption in .*text_encoder_cache_variants"):
        prepared("sdxl", argv)


def test_the_name_of_text_encoders_tells_of_a_small_change_in_one_layer():
    torch.manual_seed(0)
    encoders = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)) for _ in range(2)]
    before = text_caching.encoders_identity(encoders)
    assert before == text_caching.encoders_identity([encoder.to(torch.bfloat16).float() for encoder in encoders])
    with torch.no_grad():
        encoders[0][1].weight += 0.01 * torch.randn(64, 64)
    assert text_caching.encoders_identity(encoders) != before


def test_weights_in_8_bit_tell_of_a_change_too():
    encoders = [torch.nn.Sequential(torch.nn.Linear(64, 64))]
    store_weights(encoders[0], lambda weight: weight.in_8_bit(scaled=True))
    before = text_caching.encoders_identity(encoders)
    encoders[0][0].stored.data.copy_(torch.zeros(64, 64))
    assert text_caching.encoders_identity(encoders) != before
