"""Metadata files of the fine-tuning method."""

import json

import pytest

from library.data.metadata_files import joined_caption
from library.data.registration import register_images
from library.data.subsets import Subset
from tests.data.drawn import draw, settings


def register(folder, content, name="meta.json", image_dir=True, validation=False, strict_compat=False, values=None, **options):
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    subset = Subset(metadata_file=str(file), image_dir=str(folder) if image_dir else None, **options)
    return register_images(settings(subset, **(values or {})), validation=validation, strict_compat=strict_compat)


def captions(registered):
    return {key.rsplit("/", 1)[-1]: record.caption for key, record in registered.records.items()}


def test_longer_keys_come_first_and_caption_and_tags_are_joined_without_a_blank(tmp_path):
    draw(tmp_path, "a.png", "b.png", "ccc.png")
    content = {"a.png": {"caption": "cat", "tags": "x, y"}, "b.png": {"tags": "z"}, "ccc.png": {"caption": "dog", "train_resolution": [1]}}
    registered = register(tmp_path, content, num_repeats=3)
    assert list(captions(registered).items()) == [("ccc.png", "dog"), ("a.png", "cat,x, y"), ("b.png", "z")]
    assert (registered.num_train_images, registered.subsets[0].tag_frequency) == (9, {"x": 1, "y": 1, "z": 1})


def test_json_lines_are_read_too(tmp_path):
    draw(tmp_path, "a.png")
    assert captions(register(tmp_path, '{"image_path": "a.png", "caption": "cat"}\n\n', name="m.jsonl")) == {"a.png": "cat"}


def test_a_key_without_an_ending_is_resolved_to_its_image(tmp_path):
    draw(tmp_path, "a.b.jpg")
    assert captions(register(tmp_path, {"a.b": {"caption": "cat"}})) == {"a.b.jpg": "cat"}


def test_a_key_without_an_image_is_named(tmp_path):
    draw(tmp_path, "a.png")
    with pytest.raises(ValueError, match="nothing: there is no such image"):
        register(tmp_path, {"a.png": {}, "nothing": {}})


def test_a_given_size_is_used_as_it_is(tmp_path):
    draw(tmp_path, "a.png")
    (record,) = register(tmp_path, {"a.png": {"image_size": [100, 50]}}).records.values()
    assert record.size == (100, 50)


def test_full_paths_need_no_image_dir(tmp_path):
    (path,) = draw(tmp_path, "a.png")
    assert list(register(tmp_path, {path: {"caption": "cat"}}, image_dir=False).records) == [path]


def test_relative_keys_without_image_dir_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no full paths.*image_dir"):
        register(tmp_path, {"a.png": {}}, image_dir=False)


@pytest.mark.parametrize("content", ["[1]", "{", '{"a.png": 3}', '{"a.png": {"image_size": [0, 5]}}'])
def test_a_damaged_file_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"metadata_file .*meta\.json"):
        register(tmp_path, content)


def test_with_wildcards_tags_join_every_line():
    subset = Subset(enable_wildcard=True)
    assert joined_caption("one\n\ntwo", "x\ny", subset, strict_compat=False) == "one,x,y\ntwo,x,y"


def test_with_wildcards_tags_of_a_blank_caption_are_lost_in_strict_mode_only():
    subset = Subset(enable_wildcard=True)
    assert [joined_caption(" ", "x", subset, strict_compat=strict) for strict in (False, True)] == ["x", ""]


def test_a_split_holds_out_images_except_in_strict_mode(tmp_path):
    draw(tmp_path, "a.png", "b.png")

    def count(**mode):
        return len(register(tmp_path, {"a.png": {}, "b.png": {}}, values={"validation_split": 0.5}, **mode).records)

    assert [count(strict_compat=strict, validation=held_out) for strict in (False, True) for held_out in (False, True)] == [1, 1, 2, 2]
