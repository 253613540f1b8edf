"""This process's environment, as it is passed on to what runs under the daemon.

Owns what of it JSON can carry. Must not choose: whoever passes it on does.
"""

import os

from ccexecctl import render


def own_environment() -> dict[str, str]:
    """This process's environment, less what JSON cannot carry."""
    environ = dict(os.environ)
    unfit = [name for name, value in environ.items() if not is_text(name + value)]
    if unfit:
        render.remark(f"warning: not UTF-8, so not passed on: {', '.join(unfit)}")
    return {name: value for name, value in environ.items() if name not in unfit}


def is_text(text: str) -> bool:
    """Whether it came from valid UTF-8: other bytes are lone surrogates here (PEP 383)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
