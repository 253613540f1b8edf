"""Patterns of a configuration: what they match, and that each of them ends."""

import time

import pytest

from ccexecd.core.patterns import MAX_TEXT, WHOLE, PatternError, check, compiled, is_glob, matches, matches_path


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("push", "push", True),
        ("push", "pushy", False),
        ("--format=*", "--format=a/b c\nd", True),
        ("-?", "-x", True),
        ("[ab]", "c", False),
        ("PUSH", "push", False),
        ("re:v[0-9]+", "v12", True),
        ("re:v[0-9]+", "v12x", False),
        ("re:(?i)push", "PUSH", True),
        ("re:.", "\n", False),
    ],
)
def test_a_pattern_matches_the_whole_text(pattern, text, expected):
    """A glob, or a regular expression behind re:, with upper and lower case told apart."""
    assert matches(pattern, text) is expected


def test_a_text_that_is_too_long_cannot_be_judged_by_an_expression():
    """Neither yes nor no: who asks decides what that means. A glob has no such bound."""
    assert matches("re:a*", "a" * MAX_TEXT) is True
    assert matches("re:a*", "a" * (MAX_TEXT + 1)) is None
    assert matches("a*", "a" * (MAX_TEXT + 1)) is True


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/usr/bin/*", "/usr/bin/ls", True),
        ("/usr/bin/*", "/usr/bin/sub/ls", False),
        ("/opt/**", "/opt/a/b/c", True),
        ("/opt/**/bin/*", "/opt/bin/x", True),
        ("/opt/**/bin/*", "/opt/a/b/bin/x", True),
        ("/opt/**/bin/*", "/opt/a/b/bin/c/x", False),
        ("/opt/**/a/**/b", "/opt/x/a/y/a/z/b", True),
        ("/opt/?", "/opt/ab", False),
        ("/opt/[ab]", "/opt/b", True),
        ("**", "/anything/at/all", True),
    ],
)
def test_a_star_stays_within_a_folder(pattern, path, expected):
    """Two of them do not."""
    assert matches_path(pattern, path) is expected


@pytest.mark.parametrize(("pattern", "expected"), [("ls", False), ("l*", True), ("l?", True), ("l[s]", True)])
def test_what_is_a_glob(pattern, expected):
    """What stands for more than itself."""
    assert is_glob(pattern) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "(a+)+$",
        "(a*)*",
        "(a|a)*b",
        "([a-z]+x?)+",
        "a*b*c*d*e",
        "a{1,60}a{1,60}a{1,60}a{1,60}a{1,60}b",
        "(?:(?:a{1,20}){1,20}){1,20}b",
        "(?:(?=a+)a)+",
    ],
)
def test_an_expression_that_could_take_for_ever_is_refused(pattern):
    """Whatever text somebody sends: the event loop does not wait for it."""
    with pytest.raises(PatternError):
        check(f"re:{pattern}")


@pytest.mark.parametrize("pattern", [r"\d+-\d+", r"(?:\d{1,3}\.){3}\d{1,3}", "(?:cat|dog)s?", "[A-Z]{4}x", "(?i)a.*b"])
def test_an_expression_that_ends_is_taken(pattern):
    """Ordinary ones are."""
    check(f"re:{pattern}")
    assert compiled(pattern, WHOLE).pattern == pattern


@pytest.mark.parametrize("pattern", ["re:a*a*b", "*a*a*a*a*a*b", "re:(?:a|b){1,8}c"])
def test_no_pattern_takes_long(pattern):
    """Also on a text that was made to."""
    check(pattern)
    began = time.process_time()
    assert matches(pattern, "a" * MAX_TEXT) is False
    assert time.process_time() - began < 5  # seconds; one that doubles with each character takes years
    assert not matches_path("/**/a" * 50 + "/b", "/a" * 2000)
