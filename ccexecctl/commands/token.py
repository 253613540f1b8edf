"""`ccexecctl token`: manage the tokens of clients that are not identified by the kernel."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import seconds
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = """\
Show or change the tokens that admit clients to the WebSocket and to HTTP. A change counts at once, without a restart;
whoever came in by a token that is rotated or revoked has to leave. The text of a token is printed once, when it is
made: only its hash is kept. The default token alone is in a file, for the programs of whoever can read that."""

EXAMPLES = """\
examples:
  ccexecctl token show
  ccexecctl token add --name ci --scope execute --expires 90d
  ccexecctl token list
  ccexecctl token rotate ci
  ccexecctl token revoke ci
"""

SHOW_DESCRIPTION = """\
Print the default token, which admits to everything. Hand it on by a file or the environment: everybody can read the
command lines of programs."""

SHOW_EXAMPLES = """\
example:
  ccexecctl token show
"""

ROTATE_DESCRIPTION = """\
Give a token another text and print that. The old text admits nobody from then on; scopes and expiry stay. A client
that comes back with the new text finds its session, within the time for resuming it."""

ROTATE_EXAMPLES = """\
examples:
  ccexecctl token rotate
  ccexecctl token rotate ci
"""

ADD_DESCRIPTION = """\
Make a token and print its text, which nobody can ask for again. Whoever shows it is the principal of its name: the
sessions and executions of one are not there for another."""

ADD_EXAMPLES = """\
examples:
  ccexecctl token add --name ci --scope execute --expires 90d
  ccexecctl token add --name panel --scope observe

scopes:
  observe    look at the daemon, and at what is its own
  execute    also run commands, and control what is its own
  admin      everything, others' included
"""

LIST_DESCRIPTION = "List the tokens: names, scopes and times, never a text."

LIST_EXAMPLES = """\
example:
  ccexecctl token list --json
"""

REVOKE_DESCRIPTION = """\
Withdraw a token for good. Its connections are closed now; what it runs ends when the time for resuming has passed, or
by ccexecctl cancel."""

REVOKE_EXAMPLES = """\
example:
  ccexecctl token revoke ci
"""

SCOPES = ("observe", "execute", "admin")


def lifetime(text: str) -> float:
    """Argparse type of the lifetime of a token.

    Returns:
        Seconds, more than 0.

    Raises:
        ArgumentTypeError: the text is no span of time above 0.
    """
    value = seconds(text)
    if not value:
        raise ArgumentTypeError("a token that expires at once admits nobody")
    return value


def configure(parser: ArgumentParser) -> None:
    """Add the five subcommands, each with its arguments."""
    metavar = "show|rotate|add|list|revoke"
    parser.usage = f"{parser.prog} [OPTIONS] {metavar} ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar=metavar, prog=parser.prog)
    show = deeds.add_parser("show", description=SHOW_DESCRIPTION, epilog=SHOW_EXAMPLES, help="the default one's text")
    show.set_defaults(deed=_show)
    rotate = deeds.add_parser("rotate", description=ROTATE_DESCRIPTION, epilog=ROTATE_EXAMPLES, help="another text")
    rotate.usage = f"{rotate.prog} [OPTIONS] [NAME]"
    rotate.add_argument("name", nargs="?", default="default", metavar="NAME", help="which one (default: default)")
    rotate.set_defaults(deed=_rotate)
    add = deeds.add_parser("add", description=ADD_DESCRIPTION, epilog=ADD_EXAMPLES, help="make one")
    add.usage = f"{add.prog} [OPTIONS] --name NAME --scope SCOPE"
    add.add_argument("--name", required=True, metavar="NAME", help="of the token, and of whoever shows it")
    add.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=SCOPES,
        metavar="SCOPE",
        help="what it admits to: observe, execute or admin; may be repeated",
    )
    add.add_argument(
        "--expires", type=lifetime, metavar="TIME", help="how long it is good for: 12h, 90d (default: for ever)"
    )
    add.set_defaults(deed=_add)
    listing = deeds.add_parser("list", description=LIST_DESCRIPTION, epilog=LIST_EXAMPLES, help="every one")
    listing.set_defaults(deed=_list)
    revoke = deeds.add_parser("revoke", description=REVOKE_DESCRIPTION, epilog=REVOKE_EXAMPLES, help="withdraw one")
    revoke.usage = f"{revoke.prog} [OPTIONS] NAME"
    revoke.add_argument("name", metavar="NAME", help="which one")
    revoke.set_defaults(deed=_revoke)


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = arguments.deed(arguments)
    return code


def _ask(arguments: Namespace, method: str, **params: Any) -> Any:
    with connect_to(arguments) as client:
        return client.call(method, params)


def _show(arguments: Namespace) -> int:
    shown = _ask(arguments, "token_show")
    render.show(shown, [shown["token"]], as_json=arguments.json)
    return Exit.DONE


def _rotate(arguments: Namespace) -> int:
    rotated = _ask(arguments, "token_rotate", name=arguments.name)
    render.show(rotated, [rotated["token"]], as_json=arguments.json)
    render.remark(f"the token {rotated['name']!r} has another text; the old one admits nobody any more")
    return Exit.DONE


def _add(arguments: Namespace) -> int:
    scopes = list(dict.fromkeys(arguments.scope))
    made = _ask(arguments, "token_add", name=arguments.name, scopes=scopes, lifetime=arguments.expires)
    render.show(made, [made["token"]], as_json=arguments.json)
    until = f" until {render.moment(made['expires_at'])}" if made["expires_at"] else ""
    render.remark(f"the token {made['name']!r} admits to {', '.join(made['scopes'])}{until}; it is not shown again")
    return Exit.DONE


def _list(arguments: Namespace) -> int:
    listed = _ask(arguments, "token_list")
    rows = [
        (
            token["name"],
            ",".join(token["scopes"]),
            render.moment(token["created_at"]),
            render.moment(token["expires_at"]) + (" (expired)" if token["expired"] else ""),
        )
        for token in listed["tokens"]
    ]
    render.show(listed, render.table(("NAME", "SCOPES", "CREATED", "EXPIRES"), rows), as_json=arguments.json)
    return Exit.DONE


def _revoke(arguments: Namespace) -> int:
    revoked = _ask(arguments, "token_revoke", name=arguments.name)
    render.show(revoked, [f"revoked {revoked['name']}"], as_json=arguments.json)
    return Exit.DONE
