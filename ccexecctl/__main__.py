"""Entry of `ccexecctl`: one command line in, one exit code out.

Owns the edge: the only place that turns an exception into words and an exit code.
"""

import signal
import sys
from collections.abc import Sequence

from ccexecctl import arguments as command_line
from ccexecctl import commands, render
from ccexecctl.errors import CtlError, Exit, UsageError


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        words: the command line without the program's name; None for that of this process.

    Returns:
        The exit code, see `ccexecctl.errors.Exit`.

    Raises:
        SystemExit: help was asked for.
    """
    render.prepare_streams()
    try:
        try:
            return _run(sys.argv[1:] if words is None else words)
        finally:
            sys.stdout.flush()  # what goes wrong is noticed here, not at interpreter exit where nobody can catch it
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `ccexecctl ps | head -1`: nothing failed
        render.discard(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk under our output; every other one has become a CtlError where it happened
        render.discard(sys.stdout)
        render.remark(f"cannot write the output: {(error.strerror or str(error)).lower()}")
        return Exit.FAILED


def _run(words: Sequence[str]) -> int:
    try:
        arguments = command_line.parse(words)
    except UsageError as error:
        render.failure(error, as_json=command_line.wants_json(words))
        return error.exit_code
    try:
        return commands.load(arguments.verb).run(arguments)
    except CtlError as error:
        error.hint = command_line.at_place(error.hint, arguments)
        render.failure(error, as_json=arguments.json)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
