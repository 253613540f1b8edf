"""What looks like a secret does not last: by its beginning, by the name before it, or by configuration."""

import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.core.patterns import PatternError
from ccexecd.core.redaction import MAX_TEXT, REDACTED, Redactor

SECRET = "s3cr3t-V4lue"

TEXTS = [
    "curl -H 'Authorization: Bearer abcDEF123456' http://host/x",
    'curl -H "authorization: basic dXNlcjpwYXNz" http://host/x',
    "curl https://user:s3cr3t-V4lue@host/path",
    "git clone https://x-access-token:ghp_abcdefghijklmnopqrstuvwxyz0123456789@github.com/a/b",
    "echo sk-ant-api03-abcdefghijklmnop",
    "echo sk-proj-abcdefghijklmnop",
    "export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY=s3cr3t-V4lue aws s3 ls",
    "mysql --password=s3cr3t-V4lue db",
    "mysql --password s3cr3t-V4lue db",
    "tool --api-key=s3cr3t-V4lue",
    "tool --api-key 's3cr3t-V4lue with blanks'",
    'tool --api_key="s3cr3t-V4lue \\" with a quote"',
    "tool --token s3cr3t-V4lue --verbose",
    "tool -token s3cr3t-V4lue",
    "tool --token 's3cr3t-V4lue unfinished",
    'echo \'{"password": "s3cr3t-V4lue", "a": 1}\'',
    "echo passphrase: s3cr3t-V4lue",
    "psql 'host=x password=s3cr3t-V4lue dbname=y'",
    "sh -c 'TOKEN=s3cr3t-V4lue; export TOKEN'",
    "echo xoxb-1234567890-abcdefghij",
    "echo glpat-abcdefghijklmnop",
    "echo github_pat_11ABCDEFG0abcdefghij",
    "echo eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "echo '-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----'",
]
VALUES = [
    "abcDEF123456",
    "dXNlcjpwYXNz",
    SECRET,
    "ghp_abcdef",
    "sk-ant",
    "sk-proj",
    "AKIAIOSF",
    "xoxb-123",
    "glpat-",
    "github_pat_11",
    "eyJzdWIi",
    "MIIEpAI",
    "unfinished",
    "with blanks",
]

HARMLESS = [
    "ls -l /tmp",
    "git commit -m 'fix the tokenizer'",
    "claude -p 'What is 2+2?' --output-format stream-json --verbose --max-tokens 100",
    "python3 -m http.server 8000",
    "curl http://host:8080/path?key=1",
    "ssh -i ~/.ssh/id_ed25519 user@host",
    "echo task-runner desk-clerk",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_taken_out(text):
    """The text says where there was one, and nothing of it."""
    shown = Redactor().text(text)
    assert REDACTED in shown
    assert not [value for value in VALUES if value in shown]


@pytest.mark.parametrize("text", [text for text in TEXTS if "unfinished" not in text])
def test_a_secret_among_words_is_taken_out(text):
    """The same where the words are known."""
    shown = Redactor().words(shlex.split(text))
    assert REDACTED in shown
    assert not [value for value in VALUES if value in shown]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    """Who reads the audit is to see what was run."""
    assert Redactor().text(text) == text
    assert shlex.split(Redactor().words(shlex.split(text))) == shlex.split(text)


def test_what_stands_around_a_secret_stays():
    """Its name does, too."""
    assert Redactor().text("tool --token abc -v; rm x") == "tool --token [redacted] -v; rm x"
    assert Redactor().words(["tool", "--password=a b", "x y"]) == "tool --password=[redacted] 'x y'"
    assert Redactor().words(["tool", "--token", "--verbose", "x"]) == "tool --token --verbose x"


def test_configured_patterns_count_as_well():
    """What a house calls its secrets."""
    redactor = Redactor([r"corp-\d+", "(?i)project nightjar"])
    assert redactor.text("echo corp-1234 'Project Nightjar' x") == "echo [redacted] '[redacted]' x"
    assert redactor.words(["echo", "corp-1234", "corp-x"]) == "echo [redacted] corp-x"


@pytest.mark.parametrize("pattern", ["(", "(a+)+$", "", "a*"])
def test_a_pattern_that_could_take_for_ever_or_matches_nothing_is_refused(pattern):
    """Whatever text somebody sends: the event loop does not wait for it."""
    with pytest.raises(PatternError):
        Redactor([pattern])


def test_long_texts_are_cut():
    """A secret across the cut does not survive with its first half."""
    text = "x" * (MAX_TEXT - 20) + " --password abcdefghijklmnopqrstuvwxyz"
    shown = Redactor().text(text)
    assert "abc" not in shown
    assert len(shown) <= MAX_TEXT + len(REDACTED) + 1
    assert shown.endswith("…")
    assert Redactor().text(shown) == shown
    assert len(Redactor().words(["x" * 100] * 1000)) <= MAX_TEXT + 1


def test_lines_are_not_cut():
    """A traceback may be longer than a command; a line may not."""
    text = "\n".join(f"line {number}" for number in range(2000)) + "\ntoken=abc"
    shown = Redactor().lines(text)
    assert shown == text.replace("abc", REDACTED)
    assert Redactor().lines("x" * 10_000) == "x" * 10_000


PIECES = [*"ab \"'\\=:-_@/.;\n", "token", "--password", "Bearer ", "sk-", "eyJ", "://", "corp-1", "é"]
ALPHABET = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@settings(deadline=None, max_examples=400)
@given(ALPHABET)
def test_twice_is_as_good_as_once(text):
    """What has been redacted is handed on as it is."""
    redactor = Redactor(["corp-[0-9]+"])
    once = redactor.text(text)
    assert redactor.text(once) == once


@settings(deadline=None, max_examples=200)
@given(st.lists(ALPHABET.filter(bool), max_size=5), st.text(alphabet="abcXYZ019+/", min_size=8, max_size=40))
def test_the_value_of_an_option_never_stays(words, secret):
    """Whatever stands around it."""
    secret = f"#{secret}#"
    shown = Redactor().words([*words, "--api-key", secret, *words])
    assert secret not in shown
    assert secret not in Redactor().words([*words, f"--api-key={secret}", *words])


@pytest.mark.parametrize(
    "piece",
    [
        "-eyJa",
        "token",
        "--token ",
        'token="',
        "token='",
        "://a:",
        "Bearer ",
        "-",
        "a",
        "password: ",
        "sk_",
        '"\\',
        "--a",
    ],
)
def test_no_text_takes_long(piece):
    """Also one that was made to."""
    text = piece * (MAX_TEXT // len(piece))
    began = time.process_time()
    for _ in range(5):
        Redactor().text(text)
    assert (time.process_time() - began) / 5 < 0.2  # seconds; one that doubles with each character takes years


def test_words_stay_words_without_their_secrets():
    """A value behind its option, a token, an assignment; and one word for all where a secret spans several."""
    words = ["sh", "--password", "hunter2", "sk-ant-" + "x" * 40, "a=b"]
    assert Redactor().listed(words) == ["sh", "--password", REDACTED, REDACTED, "a=b"]
    assert Redactor().listed(["ls", "-l"]) == ["ls", "-l"]
    [all_of_them] = Redactor(["top secret"]).listed(["echo", "top", "secret"])
    assert all_of_them == f"echo {REDACTED}"
