"""Entry of `ccexecctl`: one command line in, one exit code out.

Owns the edge: the only place that turns an exception into words and an exit code.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence

from ccexecctl import arguments as command_line
from ccexecctl import commands, render
from ccexecctl.errors import CtlError


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        words: the command line without the program's name; None for that of this process.

    Returns:
        The exit code, see `ccexecctl.errors.Exit`.

    Raises:
        SystemExit: wrong usage, or help was asked for.
    """
    render.prepare_streams()
    try:
        code = _run(command_line.parse(sys.argv[1:] if words is None else words))
        sys.stdout.flush()  # a reader that has gone is noticed here, not at interpreter exit where nobody can catch it
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `ccexecctl ps | head -1`: nothing failed. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _run(arguments: Namespace) -> int:
    try:
        return commands.load(arguments.verb).run(arguments)
    except CtlError as error:
        render.failure(error, as_json=arguments.json)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
