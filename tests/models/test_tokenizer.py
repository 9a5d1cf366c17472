"""Token ids and weights equal a recording of the reference; vocabularies come from this repository or a cache folder."""

import json
import pickle

import pytest

from library.models.sd import SD
from library.models.sdxl import SDXL
from library.models.tokenizer import CLIP_L, MEMO_LIMIT, OPENCLIP_BIGG, OPENCLIP_H, ClipTokenizer, load_tokenizer
from tests.conftest import GOLDEN

RECORDED = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))


def family(model: str, max_token_length: int | None):
    return SDXL(max_token_length=max_token_length) if model == "sdxl" else SD(v2=model == "sd2", max_token_length=max_token_length)


def recorded_ids(encoder: dict) -> list[list[int]]:
    return [row["head"] + [row["tail"]] * row["tail_count"] for row in encoder["ids"]]


def recorded_weights(encoder: dict) -> list[float]:
    """The recording has 77 weights per chunk; ours are one sequence of 75 per chunk and the two ends."""
    chunks = [[value for value, count in row for _ in range(count)] for row in encoder["weights"]]
    return [1.0, *(weight for chunk in chunks for weight in chunk[1:-1]), 1.0]


@pytest.mark.parametrize("max_token_length", [None, 150, 225])
@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
def test_ids_equal_the_recording(model, max_token_length):
    tokenize = family(model, max_token_length).tokenize
    for row in RECORDED["rows"]:
        if row["model"] == model and row["max_token_length"] == max_token_length and not row["weighted"]:
            caption = RECORDED["texts"][row["text"]]
            assert [ids[0].tolist() for ids in tokenize([caption])] == [recorded_ids(encoder) for encoder in row["out"]], caption


@pytest.mark.parametrize("max_token_length", [None, 150, 225])
@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
def test_ids_and_weights_of_weighted_captions_equal_the_recording(model, max_token_length):
    tokenize = family(model, max_token_length).tokenize_weighted
    for row in RECORDED["rows"]:
        if row["model"] == model and row["max_token_length"] == max_token_length and row["weighted"]:
            caption = RECORDED["texts"][row["text"]]
            ids, weights = tokenize([caption])
            assert [tensor[0].tolist() for tensor in ids] == [recorded_ids(encoder) for encoder in row["out"]], caption
            for tensor, encoder in zip(weights, row["out"], strict=True):
                assert tensor[0].tolist() == pytest.approx(recorded_weights(encoder), rel=1e-6), caption


def test_the_recording_has_504_token_lists():
    assert sum(len(row["out"]) for row in RECORDED["rows"]) == 504


@pytest.mark.parametrize("source", [CLIP_L, OPENCLIP_H, OPENCLIP_BIGG])
def test_a_missing_cache_folder_is_written_and_used(tmp_path, source):
    written = load_tokenizer(source, str(tmp_path))
    assert (tmp_path / source.folder_name / "vocab.json").is_file()
    text = "a photo of sks, !!! 桜"
    assert load_tokenizer(source, str(tmp_path)).ids(text) == written.ids(text) == load_tokenizer(source).ids(text)
    assert [path.name for path in tmp_path.iterdir()] == [source.folder_name]


def test_cache_folders_are_named_by_hub_id():
    assert CLIP_L.folder_name == "openai_clip-vit-large-patch14"
    assert OPENCLIP_H.folder_name == "stabilityai_stable-diffusion-2"
    assert OPENCLIP_BIGG.folder_name == "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"


def test_a_cached_folder_is_used_as_it_is(tmp_path):
    load_tokenizer(CLIP_L, str(tmp_path))
    merges = tmp_path / CLIP_L.folder_name / "merges.txt"
    merges.write_text("\n".join(merges.read_text(encoding="utf-8").splitlines()[:2]) + "\n", encoding="utf-8")
    assert len(load_tokenizer(CLIP_L, str(tmp_path)).ids("photograph")) > len(load_tokenizer(CLIP_L).ids("photograph"))


def test_a_broken_cache_folder_names_the_option_and_the_folder(tmp_path):
    (tmp_path / CLIP_L.folder_name).mkdir()
    (tmp_path / CLIP_L.folder_name / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="--tokenizer_cache_dir.*openai_clip-vit-large-patch14"):
        load_tokenizer(CLIP_L, str(tmp_path))


def test_text_damaged_by_encodings_is_mended():
    tokenizer = load_tokenizer(CLIP_L)
    assert tokenizer.ids("it\u2019s \ufb01ne \uff21") == tokenizer.ids("it's fine A")


def test_a_family_with_tokenizers_can_be_sent_to_worker_processes():
    sd = SD()
    expected = sd.tokenize(["a cat"])[0].tolist()
    assert pickle.loads(pickle.dumps(sd)).tokenize(["a cat"])[0].tolist() == expected


def test_texts_are_tokenized_once_and_memory_is_bounded():
    class Counting:
        calls = 0

        def __call__(self, text, **options):
            self.calls += 1
            return type("Encoding", (), {"input_ids": [1]})

    counting = Counting()
    tokenizer = ClipTokenizer(counting, 0)
    for text in ("a", "a", *map(str, range(MEMO_LIMIT + 5))):
        tokenizer.ids(text)
    assert counting.calls == 1 + MEMO_LIMIT + 5
    assert len(tokenizer._memo) <= MEMO_LIMIT


@pytest.mark.parametrize("length", [77, 100])
def test_other_token_lengths_are_refused(length):
    with pytest.raises(ValueError, match="--max_token_length"):
        SD(max_token_length=length)
