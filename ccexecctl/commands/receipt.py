"""`ccexecctl receipt`: hand out the receipt of an execution, or the key by which others can verify it."""

from argparse import ArgumentParser, Namespace

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, UsageError
from ccexecctl.evidence import markdown_of

DESCRIPTION = """\
Print the receipt of an execution that has ended: what was run, when, how it ended, digests of its output, and the
signature of the daemon. As JSON it can be verified elsewhere, without a daemon; --markdown is for people. With
--public-key: what it is verified with. Keep that where whoever runs commands here cannot change it."""

EXAMPLES = """\
examples:
  ccexecctl receipt 1f0c9b2e > receipt.json
  ccexecctl receipt 1f0c9b2e --markdown
  ccexecctl receipt --public-key > ccexecd.pem
  ccexecctl verify --public-key ccexecd.pem receipt.json
"""


def configure(parser: ArgumentParser) -> None:
    """Add the execution, and the form of the output."""
    parser.usage = f"{parser.prog} [OPTIONS] ID\n       {parser.prog} [OPTIONS] --public-key"
    parser.add_argument("execution_id", metavar="ID", nargs="?", help="an execution id, or its beginning")
    parser.add_argument("--markdown", action="store_true", help="for people, instead of JSON")
    parser.add_argument("--public-key", action="store_true", help="print the daemon's public key (PEM)")


def run(arguments: Namespace) -> int:
    """Print the receipt, or the public key."""
    if (arguments.execution_id is None) != arguments.public_key:
        raise UsageError("give an execution, or --public-key", "ccexecctl ps --all")
    with connect_to(arguments) as client:
        told = client.call("receipt", {"execution_id": arguments.execution_id})
    if arguments.public_key:
        render.show(told, told["public_key"].splitlines(), as_json=arguments.json)
    elif arguments.markdown:
        render.show(told, markdown_of(told), as_json=arguments.json)
    else:
        import json  # noqa: PLC0415  # the client has it already

        render.show(told, json.dumps(told, indent=2).splitlines(), as_json=arguments.json)
    return Exit.DONE
