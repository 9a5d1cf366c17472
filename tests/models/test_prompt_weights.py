import pytest

from library.models.prompt_weights import parse_weights


@pytest.mark.parametrize(
    ("caption", "fragments"),
    [
        ("", []),
        ("plain text, more", [("plain text, more", 1.0)]),
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("a [b] c", [("a ", 1.0), ("b", 1 / 1.1), (" c", 1.0)]),
        ("(b:1.3)", [("b", 1.3)]),
        ("(a (b:0.5))", [("a ", 1.1), ("b", 0.5 * 1.1)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("(a b", [("a b", 1.1)]),
        ("[a [b", [("a ", 1 / 1.1), ("b", 1 / 1.1 / 1.1)]),
        (r"a \(b\) \[c\] \\", [(r"a (b) [c] " + "\\", 1.0)]),
        (r"a \b", [("a b", 1.0)]),
        ("a) b] c:1.5)", [("a) b] c:1.5)", 1.0)]),
        ("[x:1.2]", [("x:1.2", 1 / 1.1)]),
        ("(d:)", [("d:", 1.1)]),
        ("(a:-.5)", [("a", -0.5)]),
        ("(a:1.5)(b:1.5)", [("ab", 1.5)]),
    ],
)
def test_weights_of(caption, fragments):
    found = parse_weights(caption)
    assert [text for text, _ in found] == [text for text, _ in fragments]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in fragments])


def test_a_malformed_weight_names_itself_and_the_caption():
    with pytest.raises(ValueError, match=r"weight.*1\.2\.3.*a cat, \(x:1\.2\.3\)"):
        parse_weights("a cat, (x:1.2.3)")
