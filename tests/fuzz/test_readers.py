"""What people write and what lies on disks, at random: each reader gives a result or a ValueError with words, and always an end.

HYPOTHESIS_PROFILE=long runs twenty thousand examples of each, drawn anew every time; see tests/fuzz/profiles.py.
"""

import io
import json
import math
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import save

from library.args.config_file import read_config_file
from library.args.errors import BadArguments
from library.args.parser import setup_parser
from library.data.captions import process_caption
from library.data.dataset_config import plan_datasets, read_dataset_config
from library.data.dataset_schema import KEYS
from library.data.latent_files import UNREADABLE, CachedLatents, Wanted, open_npz, read_latents, write_latents
from library.data.subsets import Subset
from library.data.text_files import read_text_states
from library.models.checkpoints import open_checkpoint
from library.models.prompt_weights import parse_weights
from library.models.streams import open_stream
from library.saving.header import read_metadata
from library.saving.weights import load_pickled, load_tensors
from library.training.preview_prompts import READERS, parse_line, read_preview_prompts
from tests.fuzz.profiles import examples

PUNCTUATION = st.text(alphabet="()[]{}|\\:.,+-_ 0123456789eEabnif\n\t\"'é猫#=<>", max_size=60)
TEXT = st.one_of(PUNCTUATION, st.text(max_size=60))
PARSER = setup_parser("train_network")
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def named(error: ValueError, *names: str) -> None:
    assert all(name in str(error) for name in names), repr(error)


@examples(150)
@given(TEXT)
def test_caption_weights(caption):
    try:
        fragments = parse_weights(caption)
    except ValueError as error:
        named(error, "weight")
        return
    assert all(isinstance(text, str) and isinstance(weight, float) for text, weight in fragments)


@examples(100)
@given(st.text(alphabet=st.characters(blacklist_characters="\\()[]"), min_size=1, max_size=40), st.integers(1, 400))
def test_a_weighted_text_comes_back(text, hundredths):
    assert "".join(part for part, _ in parse_weights(text)) == text
    weight = hundredths / 100
    assume(not text.endswith(":") and ":" not in text)
    (found,) = parse_weights(f"({text}:{weight})")
    assert found[0] == text and math.isclose(found[1], weight)


@examples(100)
@given(TEXT, st.integers(0, 2**32), st.booleans(), st.integers(-1, 5), st.sampled_from([",", "|||", " ", ".", "{"]))
def test_captions_with_wildcards_and_tags(caption, seed, wildcards, keep, separator):
    subset = Subset(
        enable_wildcard=wildcards, shuffle_caption=True, keep_tokens=keep, caption_separator=separator, keep_tokens_separator="|||",
        secondary_separator=";", caption_tag_dropout_rate=0.3, caption_prefix="a", token_warmup_step=3, token_warmup_min=1,
    )  # fmt: skip
    made = [process_caption(caption, subset, rng=random.Random(seed), epoch=1, step=step, max_train_steps=9) for step in (0, 2, 9)]
    assert all(isinstance(one, str) for one in made)
    assert made == [process_caption(caption, subset, rng=random.Random(seed), epoch=1, step=step, max_train_steps=9) for step in (0, 2, 9)]


@examples(100)
@given(st.lists(st.sampled_from(["red", "blue", "cat", "dog", "hat", "sky"]), min_size=1, max_size=6))
def test_tags_without_chance_come_back(tags):
    caption = ", ".join(tags)
    assert process_caption(caption, Subset(), rng=random.Random(0), epoch=1, step=0, max_train_steps=1) == caption


INLINE = st.lists(st.tuples(st.sampled_from(["w", "h", "d", "s", "l", "n", "ss", "x", "ar"]), TEXT), max_size=4)


@examples(100)
@given(TEXT, INLINE)
def test_prompt_lines(text, options):
    line = text + "".join(f" --{name} {value}" for name, value in options)
    keys = parse_line(line, "here")
    assert isinstance(keys["prompt"], str)


@examples(60)
@given(
    st.text(alphabet="abc ,()", min_size=1, max_size=30),
    st.integers(64, 4096),
    st.integers(64, 4096),
    st.integers(0, 2**63),
    st.integers(1, 1000),
)
def test_a_good_prompt_line_comes_back(text, width, height, seed, steps):
    keys = parse_line(f"{text} --w {width} --h {height} --d {seed} --s {steps} --n ugly", "here")
    expected = {"prompt": text.strip(), "width": width, "height": height, "seed": seed, "sample_steps": steps, "negative_prompt": "ugly"}
    assert keys == expected


@examples(100)
@given(st.sampled_from(sorted(READERS)), st.one_of(TEXT, VALUES.map(lambda value: json.dumps([value])), st.binary(max_size=40)))
def test_prompt_files(folder, ending, content):
    path = folder / f"prompts{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        read_preview_prompts(path, default_size=(64, 64), samplers=["ddim"])
    except ValueError as error:
        named(error, "--sample_prompts", path.name)


TOML_KEYS = st.sampled_from([*KEYS, "datasets", "subsets", "general", "nonsense"])
TOML_VALUES = st.sampled_from(
    ['"x"', "3", "0", "-1", "1.5", "nan", "true", "[]", "[1, 2]", '["a"]', "{}", "{a = 1}", "512", '""', "'", "2024-01-01", "="]
)
TOML_LINES = st.one_of(
    st.tuples(TOML_KEYS, TOML_VALUES).map(" = ".join),
    st.sampled_from(["[general]", "[[datasets]]", "[[datasets.subsets]]", "[datasets]", "#"]),
    TEXT,
)


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    return path


@examples(150)
@given(st.lists(TOML_LINES, max_size=12))
def test_dataset_configs(folder, lines):
    path = written(folder / "data.toml", lines)
    try:
        settings = plan_datasets(read_dataset_config(path), {"prior_loss_weight": 1.0}, masked_loss=False, source=str(path))
    except ValueError as error:
        named(error, "--dataset_config", path.name)
        return
    assert settings and all(one.resolution and one.subsets for one in settings)


@examples(100)
@given(st.dictionaries(st.sampled_from([*KEYS, "datasets", "subsets", "x"]), VALUES, max_size=4), VALUES)
def test_dataset_configs_as_values(table, value):
    for config in (table, {"datasets": value}, {"datasets": [table], "general": table}, {"datasets": [{"subsets": [table], **table}]}):
        try:
            plan_datasets(config, {"prior_loss_weight": 1.0}, masked_loss=True)
        except ValueError as error:
            named(error, "mistake")


@examples(60)
@given(st.integers(64, 2048), st.integers(1, 9), st.integers(1, 50), st.booleans(), st.text(alphabet='abc 猫"\\', max_size=9))
def test_a_good_dataset_config_comes_back(folder, resolution, batch, repeats, flip, prefix):
    path = folder / "good.json"
    subset = {"image_dir": "x", "num_repeats": repeats, "flip_aug": flip, "caption_prefix": prefix}
    path.write_text(json.dumps({"datasets": [{"resolution": resolution, "batch_size": batch, "subsets": [subset]}]}), encoding="utf-8")
    (found,) = plan_datasets(read_dataset_config(path), {"prior_loss_weight": 1.0}, masked_loss=False)
    (one,) = found.subsets
    assert (found.resolution, found.batch_size) == ((resolution, resolution), batch)
    assert (one.num_repeats, one.flip_aug, one.caption_prefix) == (repeats, flip, prefix)


OPTIONS = st.sampled_from(
    ["network_dim", "learning_rate", "cache_latents", "network_args", "mixed_precision", "resolution", "vae", "text_encoder_lr", "x"]
)


@examples(150)
@given(st.lists(st.one_of(st.tuples(OPTIONS, TOML_VALUES).map(" = ".join), TEXT), max_size=6))
def test_config_files(folder, lines):
    path = written(folder / "config.toml", lines)
    try:
        config = read_config_file(str(path), PARSER)
    except BadArguments as error:
        named(error, path.name)
        return
    assert isinstance(config.values.get("network_dim", 0), int) and isinstance(config.values.get("cache_latents", False), bool)


def mutated(content: bytes, changes: list[tuple[int, int]], length: int) -> bytes:
    """`content` with some bytes replaced, cut or lengthened to a share of its length in percent."""
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) * length // 100]) if length <= 100 else bytes(changed) + bytes(length)


CHANGES = st.lists(st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 10**6)), st.integers(0, 255)), max_size=6)
LENGTH = st.one_of(st.just(100), st.integers(0, 130))
WHOLE = {"lora_unet_x.lora_down.weight": torch.arange(6.0).reshape(2, 3), "lora_unet_x.alpha": torch.tensor(2.0)}


def files(folder: Path, ending: str, content: bytes) -> Path:
    path = folder / f"file{ending}"
    path.write_bytes(content)
    return path


@examples(200)
@given(CHANGES, LENGTH)
def test_safetensors_files(folder, changes, length):
    path = files(folder, ".safetensors", mutated(save(WHOLE, {"note": "x"}), changes, length))
    for read in (open_checkpoint, open_stream, load_tensors, read_metadata):
        try:
            found = read(path)
        except ValueError as error:
            named(error, path.name)
        else:
            assert found is not None
    if not changes and length == 100:
        assert all(torch.equal(load_tensors(path)[name], tensor) for name, tensor in WHOLE.items())


def pickled() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": WHOLE, "step": 3}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": WHOLE, "step": 3}, content)
    return content.getvalue()


@examples(120)
@given(st.sampled_from([pickled(), zipped()]), CHANGES, LENGTH)
def test_torch_files(folder, content, changes, length):
    path = files(folder, ".pt", mutated(content, changes, length))
    for read in (open_checkpoint, load_tensors, load_pickled):
        try:
            read(path)
        except ValueError as error:
            named(error, path.name)


def cache() -> bytes:
    content = io.BytesIO()
    np.savez(content, latents=np.ones((4, 2, 2), np.float32), original_size=np.array([16, 16]), crop_ltrb=np.array([0, 0, 16, 16]))
    return content.getvalue()


def text_cache() -> bytes:
    content = io.BytesIO()
    np.savez(content, hidden_state1=np.ones((2, 3)), hidden_state2=np.ones((2, 4)), pool2=np.ones(4))
    return content.getvalue()


@examples(150)
@given(st.sampled_from([cache(), text_cache()]), CHANGES, LENGTH)
def test_cache_files(folder, content, changes, length):
    path = files(folder, ".npz", mutated(content, changes, length))
    for read in (lambda one: read_latents(one, flipped=False, alpha_mask=True), read_text_states):
        try:
            read(path)
        except ValueError as error:
            named(error, path.name)


@examples(120)
@given(st.binary(max_size=120), CHANGES)
def test_arrays_in_a_cache_whose_checksum_is_right(folder, tail, changes):
    member = io.BytesIO()
    np.save(member, np.arange(4, dtype=np.float32))
    path = folder / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents.npy", mutated(member.getvalue(), changes, 100)[:128] + tail)
    try:
        with open_npz(path) as arrays:
            assert isinstance(arrays["latents"], np.ndarray)
    except UNREADABLE:
        pass


@examples(30)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 2**32))
def test_a_cache_comes_back(folder, height, width, flipped, seed):
    image = folder / "image.png"
    image.write_bytes(b"x")
    latents = torch.randn(4, height, width, generator=torch.Generator().manual_seed(seed))
    size = (8 * width, 8 * height)
    wanted = Wanted(image, (height, width), size, None, flipped=flipped, alpha_mask=False)
    written_ = CachedLatents(latents, size, (0.0, 0.0, *map(float, size)), latents_flipped=-latents if flipped else None)
    write_latents(folder / "cache.npz", written_, wanted)
    found = read_latents(folder / "cache.npz", flipped=flipped, alpha_mask=False)
    assert torch.equal(found.latents, -latents if flipped else latents) and found.original_size == size
