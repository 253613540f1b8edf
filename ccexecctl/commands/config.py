"""`ccexecctl config`: show the configuration in force, or check one before it is used."""

import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, NotRunningError, invalid

DESCRIPTION = "Show the configuration that is in force, or check one before it is."

EXAMPLES = """\
examples:
  ccexecctl config show
  ccexecctl config validate ./ccexecd.toml
"""

SHOW_DESCRIPTION = """\
Show every key with its value and where that comes from: the running daemon's, or, when none runs, what one started now
would have. Paths are shown as they are in effect, also those that follow from the state directory; with --json they
are in `paths`."""

SHOW_EXAMPLES = """\
example:
  ccexecctl config show --json | jq .config.port
"""

VALIDATE_DESCRIPTION = """\
Check a configuration file together with the environment, without a daemon. Lists everything that is wrong, each with
its key, its source and what is allowed, and returns 1."""

VALIDATE_EXAMPLES = """\
examples:
  ccexecctl config validate
  ccexecctl config validate ./ccexecd.toml
"""


def configure(parser: ArgumentParser) -> None:
    """Add the two subcommands, each with its arguments."""
    parser.usage = f"{parser.prog} [OPTIONS] show|validate ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="show|validate", prog=parser.prog)
    show = deeds.add_parser("show", description=SHOW_DESCRIPTION, epilog=SHOW_EXAMPLES, help="the one in force")
    show.set_defaults(deed=_show)
    validate = deeds.add_parser(
        "validate", description=VALIDATE_DESCRIPTION, epilog=VALIDATE_EXAMPLES, help="check a file"
    )
    validate.usage = f"{validate.prog} [OPTIONS] [FILE]"
    validate.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the file (default: the one in use)")
    validate.set_defaults(deed=_validate)


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = arguments.deed(arguments)
    return code


def _show(arguments: Namespace) -> int:
    try:
        with connect_to(arguments) as client:
            shown = {"paths": {}, **client.call("config"), "from": "daemon"}
    except NotRunningError:
        loaded = _load(arguments, None)
        shown = {"config": loaded.config.as_public_dict(), "sources": dict(loaded.sources), "from": "files"}
        shown["paths"] = loaded.places().as_public_dict()
        render.remark("ccexecd is not running: this is what one that was started now would have")
    values = {**shown["config"], **shown["paths"]}
    rows = [(key, json.dumps(values[key], ensure_ascii=False), shown["sources"][key]) for key in shown["config"]]
    render.show(shown, render.table(("KEY", "VALUE", "SOURCE"), rows), as_json=arguments.json)
    return Exit.DONE


def _validate(arguments: Namespace) -> int:
    loaded = _load(arguments, arguments.file, to_start=True)
    checked = ", ".join(map(str, loaded.files)) or "defaults and environment"
    render.show({"valid": True, "files": list(map(str, loaded.files))}, [f"{checked}: valid"], as_json=arguments.json)
    return Exit.DONE


def _load(arguments: Namespace, file: Path | None, *, to_start: bool = False) -> Any:
    """Load a configuration as the daemon would; with `to_start`, also make sure that a daemon could start with it.

    Raises:
        CtlError: it is not valid; the message has all that is wrong.
    """
    from ccexecd.config import ConfigError, load  # noqa: PLC0415  # attrs and cattrs: only this needs them

    try:
        loaded = load({"state_dir": arguments.state_dir}, os.environ, file)
        if to_start:
            loaded.require_secrecy()
    except ConfigError as error:
        raise invalid("the configuration", str(error).splitlines()) from error
    else:
        return loaded
