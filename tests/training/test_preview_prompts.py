"""Prompt files in kohya's forms, and what is wrong with them, told by file and line."""

import json

import pytest

from library.training.preview_prompts import PreviewPrompt, read_preview_prompts

SAMPLERS = ("ddim", "euler_a")


def read(folder, name: str, content: str | bytes) -> list[PreviewPrompt]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_preview_prompts(path, default_size=(512, 768), samplers=SAMPLERS)


def refusal(folder, name: str, content: str | bytes) -> str:
    with pytest.raises(ValueError) as error:
        read(folder, name, content)
    return str(error.value)


def test_a_line_without_options_takes_the_defaults(tmp_path):
    assert read(tmp_path, "p.txt", "a cat, sitting\n") == [PreviewPrompt(0, "a cat, sitting", 512, 768)]


def test_inline_options_are_read_in_any_case(tmp_path):
    line = "a cat --n blurry, low-res --W 640 --h 640 --d 0 --s 20 --l 6.5 --SS k_euler_a"
    expected = PreviewPrompt(0, "a cat", 640, 640, "blurry, low-res", 0, 20, 6.5, "k_euler_a")
    assert read(tmp_path, "p.txt", line) == [expected]


def test_comments_and_empty_lines_do_not_count(tmp_path):
    prompts = read(tmp_path, "p.txt", "\ufeff# first\n\n  one\r\n# two\nthree\n")
    assert [(prompt.index, prompt.prompt) for prompt in prompts] == [(0, "one"), (1, "three")]


@pytest.mark.parametrize(("given", "used"), [("--w 515 --h 9", (512, 64)), ("--w 64", (64, 768))])
def test_sides_are_rounded_down_to_multiples_of_8(tmp_path, given, used):
    (prompt,) = read(tmp_path, "p.txt", f"a {given}")
    assert (prompt.width, prompt.height) == used


@pytest.mark.parametrize(("given", "used"), [(0, 1), (5000, 1000)])
def test_steps_stay_between_1_and_1000(tmp_path, given, used):
    assert read(tmp_path, "p.txt", f"a --s {given}")[0].steps == used


def test_tables_share_the_keys_of_prompt(tmp_path):
    text = '[prompt]\nwidth = 256\nscale = 5\n[[prompt.subset]]\nprompt = "a"\n[[prompt.subset]]\nprompt = "b"\nwidth = 128\nseed = -1\n'
    assert read(tmp_path, "p.toml", text) == [PreviewPrompt(0, "a", 256, 768, scale=5.0), PreviewPrompt(1, "b", 128, 768, scale=5.0)]


def test_json_holds_texts_and_objects(tmp_path):
    text = json.dumps(["a --d 3", {"prompt": "b", "sample_sampler": "ddim", "negative_prompt": None}])
    assert read(tmp_path, "p.json", text) == [PreviewPrompt(0, "a", 512, 768, seed=3), PreviewPrompt(1, "b", 512, 768, sampler="ddim")]


@pytest.mark.parametrize("name", ["p.txt", "p.toml", "p.json"])
def test_an_empty_file_holds_no_prompts(tmp_path, name):
    assert read(tmp_path, name, "") == []


@pytest.mark.parametrize(
    ("line", "told"),
    [("a --w wide", "line 2: --w needs a whole number, got 'wide'"), ("a --x 3", "line 2: --x is none of w, h"),
     ("a --fs 3", "line 2: --fs has no effect for these models"), ("a --ss nonsense", "line 2: there is no sampler 'nonsense'")],
)  # fmt: skip
def test_what_sd_scripts_passes_over_is_told_and_left_out(tmp_path, caplog, line, told):
    assert read(tmp_path, "p.txt", f"#\n{line}") == [PreviewPrompt(0, "a", 512, 768)]
    assert told in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.txt", "fine\na (cat:1.2.3)\n(b:..)", "p.txt, line 2: the weight '1.2.3'"),
        ("p.txt", "fine\na (cat:1.2.3)\n(b:..)", "p.txt, line 3: the weight '..'"),
        ("p.txt", "a --d 99999999999999999999", "line 1: seed must be below"),
        ("p.txt", "one\n桜\n".encode() + "桜".encode("cp932"), "line 3: this is not UTF-8; save the file as UTF-8"),
        ("p.toml", "[prompt]\nwidth = wide\n", "line 2"),
        ("p.toml", '[prompt]\n[[prompt.subset]]\nprompt = "a"\n[[prompt.subset]]\nwidth = "512"', "number 2: width must be a whole number"),
        ("p.toml", 'prompt = "a"', "write [prompt] and [[prompt.subset]]"),
        ("p.json", '["a",\n"b"', "p.json, line 2: not valid JSON"),
        ("p.json", '{"prompt": "a"}', "must hold a list"),
        ("p.json", '[{"scale": true}]', "entry 1: scale must be a number, got True"),
        ("p.csv", "a", "must end in .txt, .toml, .json"),
    ],
)
def test_mistakes_name_file_and_place(tmp_path, name, content, told):
    assert told in refusal(tmp_path, name, content)
