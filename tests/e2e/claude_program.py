"""The Claude Code command lines that the tests run: real ones from npm, and the stand-in.

Owns installing a version once per machine, in `$XDG_CACHE_HOME/ccexecd-tests` (which anybody may delete), however many
test runs want it at once. What is missing for that is told as the reason of a skipped test; what fails although nothing
is missing is a failure.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "@anthropic-ai/claude-code"

NATIVE = "2.1.329"
"""A version that is a native binary."""

JAVASCRIPT = "2.1.112"
"""The last version that is JavaScript, run by Node."""

STANDIN = Path(__file__).with_name("claude_standin.py")

INSTALL_LIMIT = 600.0
"""Seconds for a download of 100 MB and its unpacking."""

_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT")
"""What npm says when it cannot reach a registry: the codes of getaddrinfo(3) and connect(2) as Node spells them."""


class MissingError(Exception):
    """This machine cannot have the program; the text says what is missing."""


def standin() -> list[str]:
    """The words that start the stand-in."""
    return [sys.executable, str(STANDIN)]


def real(version: str) -> list[str]:
    """The words that start a version of the real program, installed if need be.

    Raises:
        MissingError: npm, Node or the network is missing.
        AssertionError: it should have been possible to install it, and was not.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ccexecd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    installed = cache / f"claude-code-{version}"
    with (cache / f"claude-code-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be installing it
        if not installed.exists():
            _install(version, installed)
    return [str(installed / "node_modules" / ".bin" / "claude")]


def _install(version: str, target: Path) -> None:
    """Install beside the target and rename: what has the final name is complete."""
    for program in ("npm", "node"):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not installed: Claude Code {version} comes from npm")
    unfinished = tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}-")
    try:
        _npm(version, unfinished)
        package = Path(unfinished, "node_modules", *PACKAGE.split("/"))
        postinstall = package / "install.cjs"  # links the native binary; newer npm asks before it runs such scripts
        if postinstall.exists():
            _run(["node", str(postinstall)], unfinished)
        said = _run([str(Path(unfinished, "node_modules", ".bin", "claude")), "--version"], unfinished)
        assert said.startswith(version), f"claude --version says {said!r}"
        Path(unfinished).rename(target)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _npm(version: str, where: str) -> None:
    retries = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # where there is no network, that is soon said
    options = ["--prefix", where, "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", *retries]
    try:
        _run(["npm", "install", *options, f"{PACKAGE}@{version}"], where)
    except AssertionError as failed:
        code = next((code for code in _NO_NETWORK if code in str(failed)), None)
        if code is None:
            raise
        raise MissingError(f"no network: npm cannot reach its registry ({code}) to get Claude Code {version}") from None


def _run(words: list[str], home: str) -> str:
    done = subprocess.run(
        words,
        check=False,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT,
        env=os.environ if words[0] == "npm" else {**os.environ, "HOME": home},
    )
    assert done.returncode == 0, f"{words} gave {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
