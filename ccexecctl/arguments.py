"""The command line: global options, the verb, and what the verb takes.

Owns argparse. The parser of a verb is built only when that verb was chosen, so that no verb pays for the imports of
another; the top level knows only a one-line summary of each. Global options are accepted before and after the verb; the
later one wins.
"""

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from ccexecctl import commands
from ccexecctl.errors import UsageError
from ccexecd import __version__

DESCRIPTION = "Manage ccexecd, the daemon that runs commands and never loses their output, exit or children."

LAST_PORT = 65535
"""The highest TCP port."""

UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
"""Units of a span of time, each in seconds."""

EXAMPLES = """\
examples:
  ccexecctl run -- sh -c 'echo hello; sleep 1; echo bye'
  ccexecctl start
  ccexecctl ps --all
  ccexecctl --state-dir /tmp/second status --json

exit codes:
  0  done                      3  ccexecd is not running
  1  failed or refused         4  not permitted
  2  wrong usage               run, attach: the command's own, 128+N after signal N

Which daemon, without --state-dir and --socket: that of CCEXECD_SOCKET (a path), CCEXECD_CONTROL_SOCKET or
CCEXECD_STATE_DIR, else of the state_dir and control_socket in your configuration file, else yours in the usual place,
else the machine's.

TIME is in seconds, or has units: 90s, 10m, 1h30m, 7d.

With --json, standard output is JSON and nothing else: the result, or {"error": {...}} in its place. What is meant for
people goes to standard error.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser with the global options and the layout of help that all parsers of ccexecctl have.

    Args:
        prog: the words that precede the parsed ones, for messages: `ccexecctl ps`.
        description: what the verb does, for its help.
        epilog: examples, for its help.
    """

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [OPTIONS]",
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
            conflict_handler="resolve",  # a verb's own option may take the place of a global one
        )
        _add_global_options(self)
        self._command = ""

    def add_command(self, what: str) -> None:
        """Accept a command as the last words, after "--"; the verb's own words and options precede it in any order.

        The command's words become `argv`. Without "--", they are accepted only if none of them begins like an option.

        Args:
            what: what the command is for, in the help.
        """
        self._command = "argv"
        self.add_argument(self._command, nargs="*", default=[], metavar="-- CMD ARGS", help=what)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but take the words after "--" unparsed if `add_command` was called."""
        if not self._command or "--" not in args:
            return super().parse_known_args(args, namespace)
        end = args.index("--")
        parsed, unknown = super().parse_known_args(args[:end], namespace)
        setattr(parsed, self._command, [*getattr(parsed, self._command), *args[end + 1 :]])
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Refuse a command line by an exception, where argparse would print and exit.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, f"{self.prog} --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Formats help with a fixed width, so that it is the same on every terminal, and tests can compare it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=110)


def seconds(text: str) -> float:
    """Argparse type of a span of time: a number of seconds, or numbers with units, as in `90s`, `10m`, `1h30m`, `7d`.

    Returns:
        Seconds.

    Raises:
        argparse.ArgumentTypeError: the text is neither, or less than 0.
    """
    try:
        if re.fullmatch(r"([0-9.]+[wdhms])+", text):
            value = sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)([wdhms])", text))
        else:
            value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 2.5, nor a time such as 1h30m")
    return value


def count(text: str) -> int:
    """Argparse type of a number of things.

    Raises:
        argparse.ArgumentTypeError: the text is not an integer from 0 up.
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 up")
    return int(text)


def port(text: str) -> int:
    """Argparse type of a TCP port; 0 stands for any free one.

    Raises:
        argparse.ArgumentTypeError: the text is not a number from 0 to `LAST_PORT`.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to {LAST_PORT}")
    return int(text)


def place(text: str) -> str:
    """Argparse type of a path by which a daemon is named.

    Raises:
        argparse.ArgumentTypeError: the text is empty, as `"$DIR"` is in a script that has not set DIR; accepting that
            would mean the daemon in the usual place.
    """
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return text


def pair(text: str) -> tuple[str, str]:
    """Argparse type of NAME=VALUE; returns both.

    Raises:
        argparse.ArgumentTypeError: the text has no `=`, or no name before it.
    """
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def add_run_timeout(parser: argparse.ArgumentParser) -> None:
    """Add `--timeout` of the execution. Before the verb, `--timeout` is still the global option."""
    parser.add_argument(
        "--timeout",
        dest="run_timeout",
        type=seconds,
        metavar="TIME",
        help="end it after so long: 90 (seconds), 10m, 2h",
    )


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Args:
        words: all words after the program's name.

    Returns:
        The global options, those of the verb, and `verb`, its name.

    Raises:
        UsageError: the command line is wrong.
        SystemExit: with 0: help or the version was asked for, and has been printed.
    """
    top = top_parser()
    arguments = top.parse_args(words)
    verb, *rest = vars(arguments).pop("words")
    if verb == "help":
        return parse([*rest[:1], "--help"])
    if verb not in commands.SUMMARIES:
        raise UsageError(f"there is no verb {verb!r}", _suggestion(verb))
    arguments.verb = verb
    return verb_parser(verb).parse_args(rest, arguments)


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line that cannot be parsed asks for JSON: `--json` is among its words before "--"."""
    ours = words[: words.index("--")] if "--" in words else words
    return "--json" in ours


def at_place(hint: str, arguments: argparse.Namespace) -> str:
    """Add the `--state-dir` and `--socket` that were given to all commands of ccexecctl in a hint."""
    import shlex  # noqa: PLC0415  # only a failure pays for it

    given = (("--state-dir", arguments.state_dir), ("--socket", arguments.socket))
    options = [word for flag, value in given if value for word in (flag, value)]
    if not options:
        return hint
    verbs = "|".join(commands.SUMMARIES)
    return re.sub(rf"\bccexecctl (?=({verbs})\b)", lambda _: f"ccexecctl {shlex.join(options)} ", hint)


def top_parser() -> argparse.ArgumentParser:
    """Make the parser of the words before the verb."""
    verbs = "\n".join(f"  {name:<10}{summary}" for name, summary in commands.SUMMARIES.items())
    top = Parser(
        "ccexecctl", DESCRIPTION, f"verbs:\n{verbs}\n\nccexecctl VERB --help tells all about one.\n\n{EXAMPLES}"
    )
    top.usage = f"{top.prog} [OPTIONS] VERB ..."
    top.add_argument("--version", action="version", version=f"ccexecctl {__version__}")
    # PARSER: the verb and all words after it, unparsed, a "--" included; the verb's own parser reads them.
    top.add_argument("words", nargs=argparse.PARSER, metavar="VERB", help=argparse.SUPPRESS)
    top.set_defaults(state_dir=None, socket=None, json=False, timeout=None)
    return top


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Make the parser of the words after a verb."""
    module = commands.load(verb)
    parser = Parser(f"ccexecctl {verb}", module.DESCRIPTION, module.EXAMPLES)
    module.configure(parser)
    return parser


def _add_global_options(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: an option that is not given after the verb must not undo the one before it.
    group = parser.add_argument_group("global options, before or after the verb")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    for flags, metavar, convert, text in (
        ("--state-dir", "DIR", place, "the daemon that keeps everything in DIR"),
        ("--socket", "PATH", place, "the daemon behind this control socket, whatever its state directory"),
        ("--timeout", "TIME", seconds, "how long to wait for an answer, beyond what the request itself may take"),
    ):
        group.add_argument(flags, metavar=metavar, type=convert, default=argparse.SUPPRESS, help=text)
    group.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _suggestion(verb: str) -> str:
    import difflib  # noqa: PLC0415  # only a mistake pays for it

    close = difflib.get_close_matches(verb, commands.SUMMARIES)
    close.sort(key=lambda each: sorted(each) != sorted(verb))  # letters that have changed places come first
    return f"did you mean {close[0]!r}?" if close else "ccexecctl --help"
