"""Captions beside their images."""

from pathlib import Path

from library.data.caption_files import read_captions, tag_frequency, without_tags
from library.data.folders import list_images
from library.data.subsets import Subset


def captions(folder, *files, image="a.png", strict_compat=False, **options):
    """The caption of `image`, with these (name, content) files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / image).touch()
    for name, content in files:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    listing = list_images(str(folder))
    subset = Subset(**{"caption_extension": ".txt", **options})
    texts, problems = read_captions(listing.images, listing, subset, strict_compat=strict_compat)
    return problems or texts[str(folder / image)]


def test_a_caption_is_the_first_line_stripped(tmp_path):
    assert captions(tmp_path, ("a.txt", "  cat, \r\nsecond\n")) == "cat,"


def test_a_blank_first_line_is_an_empty_caption(tmp_path):
    assert captions(tmp_path, ("a.txt", "\ncat\n"), class_tokens="thing") == ""


def test_with_wildcards_all_lines_that_are_not_blank_are_kept(tmp_path):
    assert captions(tmp_path, ("a.txt", " cat \n\n dog\n"), enable_wildcard=True) == "cat\ndog"


def test_a_face_position_in_the_name_is_left_out_of_the_caption_name(tmp_path):
    assert captions(tmp_path, ("face.txt", "cat"), image="face_10_20_30_40.png") == "cat"


def test_underscores_of_folder_names_count_as_in_the_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("set.txt").write_text("cat", encoding="utf-8")
    assert [captions(Path("set_a_b_c"), image=image) for image in ("x.png", "x_1.png")] == ["", "cat"]


def test_a_missing_caption_is_the_class_tokens(tmp_path, caplog):
    assert captions(tmp_path, class_tokens="thing") == "thing"
    assert "1 of 1 images have no caption file (.txt), 'thing' is used" in caplog.text


def test_missing_captions_are_told_once_with_the_first_five(tmp_path, caplog):
    for number in range(7):
        (tmp_path / f"i{number}.png").touch()
    captions(tmp_path, image="i0.png")
    assert len(caplog.records) == 1 and "i4.png, and 2 more" in caplog.text and "i5.png" not in caplog.text


def test_captions_of_another_ending_are_pointed_out(tmp_path, caplog):
    captions(tmp_path, ("a.txt", "cat"), caption_extension=".caption")
    assert "the folder has .txt files: is --caption_extension right?" in caplog.text


def test_a_byte_order_mark_is_removed_except_in_strict_mode(tmp_path):
    file = ("a.txt", b"\xef\xbb\xbfcat")
    assert (captions(tmp_path, file), captions(tmp_path, file, strict_compat=True)) == ("cat", "\ufeffcat")


def test_an_empty_file_is_an_empty_caption_with_a_warning(tmp_path, caplog):
    assert captions(tmp_path, ("a.txt", ""), class_tokens="thing") == ""
    assert "1 caption files are empty" in caplog.text


def test_an_empty_file_is_a_problem_in_strict_mode(tmp_path):
    problems = captions(tmp_path, ("a.txt", ""), strict_compat=True)
    assert list(problems) == [str(tmp_path / "a.png")] and "a.txt is empty" in problems[str(tmp_path / "a.png")]


def test_each_file_that_is_not_utf8_is_a_problem_of_its_image(tmp_path):
    (tmp_path / "b.png").touch()
    problems = captions(tmp_path, ("a.txt", "ä".encode("latin-1")), ("b.txt", b"\xff"))
    assert [Path(image).name for image in problems] == ["a.png", "b.png"]
    assert all("save it again as UTF-8" in problem for problem in problems.values())


def test_the_counts_without_a_caption_are_those_of_the_others():
    frequency = tag_frequency(["a, b", "b, b, c"])
    assert without_tags(frequency, "b, b, c") == tag_frequency(["a, b"])


def test_tags_are_counted_in_lower_case_without_empty_ones():
    assert list(tag_frequency(["B, a,,b ", "a\nc, ", ""]).items()) == [("b", 2), ("a", 1), ("a\nc", 1)]
