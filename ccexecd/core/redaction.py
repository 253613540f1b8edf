r"""What looks like a secret, and is kept out of log and audit.

Owns the recognition in text: tokens by their known beginnings, values that a name such as `password`, `token` or
`api_key` stands before, and whatever else the configuration names (`redact`). It is a net below the tightrope: secrets
belong into the environment or on standard input, and where a command line holds one all the same, this keeps it out of
what lasts. Redacting twice changes nothing more.

Bounded time: every pattern of ours repeats over disjoint characters or a bounded number of times, a configured one that
some text could keep busy is refused (`patterns`), and no more than `MAX_TEXT` characters are looked at.
"""

import re
import shlex
from collections.abc import Iterable, Sequence

from ccexecd.core.patterns import ANYWHERE, PatternError, compiled

REDACTED = "[redacted]"

MAX_TEXT = 4096
"""Characters of a text that are kept; the rest is neither looked at nor shown."""

_MAX_PASSES = 8
"""How often a text is gone over: what has been taken out may lay bare what stands beside it."""

_NAMES = (
    r"passw(?:or)?ds?|passwd|passphrase|secrets?|token(?!s|iz)|api[-_.]?keys?|access[-_.]?keys?|private[-_.]?keys?|"
    r"credentials?|authorization"
)
_WORD = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s'"]+|["'].*)"""

_TOKENS = re.compile(
    r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{8,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{8,}|\bgithub_pat_\w{8,}|\bglpat-[\w-]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\bya29\.[\w-]{8,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{8,}|\bhf_[A-Za-z0-9]{8,}|\bnpm_[A-Za-z0-9]{8,}|\bpypi-[\w-]{16,}"
    r"|\beyJ[\w-]{8,512}\.[\w-]+(?:\.[\w-]*)?"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"
)
_SCHEMES = re.compile(r"\b((?:bearer|basic)\s{1,8})([\w.~+/=-]{6,})", re.IGNORECASE | re.ASCII)
_BEHIND_NAMES = re.compile(
    rf"((?:{_NAMES})[\w-]{{0,40}}[\"']?\s{{0,8}}[=:]\s{{0,8}})(?!{re.escape(REDACTED)})(?:(?:bearer|basic)\s{{1,8}})?{_WORD}",
    re.IGNORECASE | re.DOTALL,
)
_BEHIND_OPTIONS = re.compile(
    rf"((?<![\w-])--?[\w-]{{0,40}}?(?:{_NAMES})[\w-]{{0,40}}\s{{1,8}})(?!{re.escape(REDACTED)}|-){_WORD}",
    re.IGNORECASE | re.DOTALL,
)
_IN_ADDRESSES = re.compile(r"(://[^\s/:@]{0,256}:)(?!\[redacted\]@)[^\s/@]{1,1024}(?=@)")

_HINTS = (
    *("sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_", "glpat", "akia"),
    *(
        "asia",
        "aiza",
        "ya29",
        "xox",
        "hf_",
        "npm_",
        "pypi-",
        "eyj",
        "private",
        "bearer",
        "basic",
        "passw",
        "passphrase",
    ),
    *("secret", "token", "key", "credential", "authorization", "://"),
)
"""What at least one of the patterns needs, in lower case: nearly every text has none of it, and is done at once."""

_OPTION = re.compile(rf"--?[\w-]{{0,40}}?(?:{_NAMES})[\w-]{{0,40}}", re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"-{{0,2}}[\w.-]{{0,80}}?(?:{_NAMES})[\w-]{{0,40}}=", re.IGNORECASE)


class Redactor:
    """Takes out what looks like a secret.

    Args:
        patterns: regular expressions (Python's); all that one of them matches is taken out.

    Raises:
        PatternError: one of them is not valid, or might take for ever.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._configured = tuple(_checked(each) for each in patterns)

    def text(self, text: str) -> str:
        """A text without its secrets: a command string, a message; cut to `MAX_TEXT` characters."""
        is_long = len(text) > MAX_TEXT
        if not is_long and not self._configured and not _is_suspect(text):
            return text
        shown, before = text[:MAX_TEXT], None
        for _ in range(_MAX_PASSES):
            if shown == before:
                break
            before, shown = shown, self._once(shown)
        return shown + "…" if is_long and not shown.endswith("…") else shown

    def _once(self, text: str) -> str:
        if _is_suspect(text):
            text = _IN_ADDRESSES.sub(rf"\1{REDACTED}", text)
            text = _TOKENS.sub(REDACTED, text)
            text = _SCHEMES.sub(rf"\1{REDACTED}", text)
            text = _BEHIND_NAMES.sub(rf"\1{REDACTED}", text)
            text = _BEHIND_OPTIONS.sub(rf"\1{REDACTED}", text)
        for pattern in self._configured:
            text = pattern.sub(_kept_apart, text)
        return text

    def lines(self, text: str) -> str:
        """A text of any length without its secrets, line by line; it is cut nowhere but in a line that is too long."""
        if not self._configured and not _is_suspect(text):
            return text
        return "\n".join(map(self.text, text.split("\n")))

    def words(self, argv: Sequence[str], joined: str | None = None) -> str:
        """A command line as people read it, without its secrets: here it is known where a value ends.

        Args:
            argv: the words.
            joined: the same quoted and joined, where that is known.
        """
        if joined is not None and len(joined) <= MAX_TEXT and not self._configured and not _is_suspect(joined):
            return joined
        return self.text(" ".join(map(_quoted, self._each(argv))))

    def listed(self, argv: Sequence[str]) -> list[str]:
        """The same as words; one word, where a secret spans several."""
        if not self._configured and not _is_suspect(" ".join(argv)):
            return list(argv)
        shown = self._each(argv)
        joined = " ".join(shown)
        redacted = self.text(joined)
        return shown if redacted in (joined, joined[:MAX_TEXT] + "…") else [redacted]

    def _each(self, argv: Sequence[str]) -> list[str]:
        shown: list[str] = []
        is_value, size = False, 0
        for word in argv:
            shown.append(REDACTED if is_value and not word.startswith("-") else self._word(word[:MAX_TEXT]))
            is_value = _OPTION.fullmatch(word, 0, MAX_TEXT) is not None
            size += len(shown[-1]) + 1
            if size > MAX_TEXT:
                break
        return shown

    def _word(self, word: str) -> str:
        assigned = _ASSIGNMENT.match(word)
        if assigned is not None and (word.startswith("-") or not any(map(str.isspace, word))):
            return assigned[0] + REDACTED
        return self.text(word)


def _is_suspect(text: str) -> bool:
    lowered = text.lower()
    for hint in _HINTS:  # noqa: SIM110  # any() takes twice as long, and each command comes through here
        if hint in lowered:
            return True
    return False


def _quoted(word: str) -> str:
    start = word.removesuffix(REDACTED)
    return (shlex.quote(start) if start else "") + REDACTED if start != word else shlex.quote(word)


def _kept_apart(found: re.Match[str]) -> str:
    """What stands for a match; what has been taken out already is left as it is."""
    return found[0] if found[0] in REDACTED else REDACTED


def _checked(pattern: str) -> re.Pattern[str]:
    found = compiled(pattern, ANYWHERE)
    if found.fullmatch("") is not None:
        raise PatternError("must not match nothing at all")
    return found
