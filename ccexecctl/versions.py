"""Notices a daemon that was not restarted after an upgrade. Owns comparing its version with that of ccexecctl."""

from ccexecctl import render
from ccexecd import __version__


def compare(daemon: str) -> None:
    """Warn on stderr when the daemon's version is not ours."""
    if daemon != __version__:
        render.remark(f"warning: ccexecd is version {daemon}, ccexecctl is {__version__}; ccexecctl restart may be due")
