"""`ccexecctl verify`: verify the evidence of executions: signed receipt, record in the history, and output."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import count
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import CtlError, RefusedError, UsageError
from ccexecctl.evidence import EXITS, exit_of, lines_of, report_of
from ccexecctl.place import locate
from ccexecd.protocol.errors import ErrorCode

DESCRIPTION = """\
Verify that executions happened, when, with which command and how they ended; that receipt and output are unaltered; and
that the reply repeats the UUID that it was asked to repeat. With --public-key, a receipt that was handed out is
verified without a daemon; with --chain, all receipts that are here."""

EXAMPLES = """\
examples:
  ccexecctl verify 1aa007fe-ca15-47fb-b4e8-3ed6f5a0dfaf
  ccexecctl verify 1aa007fe --expect-uuid 5b0c1d6e-0a67-4b0e-9f3e-6a4d1c1f9d1e
  ccexecctl verify --last 20 --report > report.md
  ccexecctl verify --public-key ccexecd.pem receipt.json --output copy/of/output/ID
  ccexecctl verify --chain --public-key ccexecd.pem

exit codes, the worst of several executions (the first of these counts before the next):
  11  forged: the daemon has not signed it        13  missing: no such execution, receipt or output
  10  edited: receipt, history or output          14  unrepeated: the reply lacks the UUID
  12  truncated: the end of it has been cut off   15  unfinished: it has no receipt yet
   0  verified                                     1 to 4 as everywhere
"""

MOST_AT_ONCE = 10_000
"""Executions that one request asks for at most: the bound that `list` and `history` have for `limit`."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments: what is verified, and by which key."""
    name = parser.prog
    parser.usage = (
        f"{name} [OPTIONS] ID...\n       {name} [OPTIONS] --last N\n"
        f"       {name} [OPTIONS] --public-key FILE RECEIPT\n       {name} [OPTIONS] --chain"
    )
    parser.add_argument("what", metavar="ID", nargs="*", help="execution ids or their beginnings; or a receipt's file")
    parser.add_argument("--last", metavar="N", type=count, help="the last N executions that have ended")
    parser.add_argument(
        "--expect-uuid", metavar="UUID", help="what the reply must repeat (default: what it was asked to)"
    )
    parser.add_argument("--report", action="store_true", help="print Markdown, or with --json all of it as one object")
    parser.add_argument("--public-key", metavar="FILE", type=Path, help="verify by this key, without asking a daemon")
    parser.add_argument("--output", metavar="DIR", type=Path, help="with a receipt's file: hold this output against it")
    parser.add_argument("--chain", action="store_true", help="every receipt that is here, and that none is missing")
    parser.add_argument("--directory", metavar="DIR", type=Path, help="with --chain: the receipts in DIR")


def run(arguments: Namespace) -> int:
    """Verify, print the verdicts, and return the exit code of the worst."""
    if arguments.chain:
        return _verify_chain(arguments)
    if arguments.public_key is not None:
        return _verify_file(arguments)
    if bool(arguments.what) == (arguments.last is not None) or arguments.last == 0:
        raise UsageError("give executions, or --last N", "ccexecctl ps --all")
    with connect_to(arguments) as client:
        ids = arguments.what or _last(client, arguments.last)
        results = [_verified(client, name, arguments.expect_uuid) for name in ids]
        if arguments.report:
            _report(client, results, arguments)
        else:
            document = results[0] if len(arguments.what) == 1 else {"executions": results}
            render.show(document, (line for each in results for line in lines_of(each)), as_json=arguments.json)
    if not results:
        render.remark("no execution has ended: there is nothing to verify")
    return exit_of(each["verdict"] for each in results) if results else EXITS["missing"]


def _last(client: Client, number: int) -> list[str]:
    """Return the ids of the last executions that have ended, newest first.

    Those that `list` knows come first; older ones are taken from the history.

    Raises:
        CtlError: the daemon could not list all of them.
    """
    reply = client.call("list", {"state": "FINISHED", "limit": min(number, MOST_AT_ONCE)})
    if "missing" in reply:
        raise CtlError(f"cannot tell which were the last {number}: not listed: {reply['missing']}")
    found = {each["execution_id"]: None for each in reply["executions"]}
    before, has_more = None, reply.get("truncated") or number > MOST_AT_ONCE
    while has_more and len(found) < number:
        reply = client.call("history", {"before": before, "limit": MOST_AT_ONCE})
        found |= {each["execution_id"]: None for each in reply["executions"]}
        before, has_more = reply["before"], bool(reply["executions"])
    return list(found)[:number]


def _verified(client: Client, name: str, uuid: str | None) -> dict[str, Any]:
    """Have the daemon verify one execution. One that it does not know gets the verdict `missing`.

    Args:
        client: the connection.
        name: the execution's id, or its beginning.
        uuid: the UUID that the reply has to repeat; None for the one that the execution was asked to.
    """
    try:
        result: dict[str, Any] = client.call("verify", {"execution_id": name, "expect_uuid": uuid}, extra=3600.0)
    except RefusedError as refused:
        if refused.code != ErrorCode.PROCESS_NOT_FOUND:
            raise
        finding = {"verdict": "missing", "text": refused.message}
        result = {"execution_id": name, "verdict": "missing", "verified": False, "findings": [finding]}
    return result


def _report(client: Client, results: list[dict[str, Any]], arguments: Namespace) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415  # only a report pays for it

    key, moment = client.call("receipt")["key"], datetime.now(UTC).isoformat(timespec="seconds")
    counts = {word: sum(each["verdict"] == word for each in results) for word in EXITS}
    document = {"at": moment, "key": key, "counts": counts, "executions": results}
    render.show(document, report_of(results, key, moment), as_json=arguments.json)


# Without a daemon


def _verify_file(arguments: Namespace) -> int:
    """Verify a receipt's file by a public key, and with `--output` the output."""
    from ccexecd.core.evidence import Finding, Verdict, worst  # noqa: PLC0415  # not needed for other ways to verify
    from ccexecd.storage import digests, proof  # noqa: PLC0415

    if len(arguments.what) != 1:
        raise UsageError("give one receipt's file", "ccexecctl receipt ID > receipt.json")
    document = _document(Path(arguments.what[0]))
    key = _key(arguments.public_key)
    try:
        findings = proof.judged(proof.proof_of(document), key, document)
    except ValueError as error:
        findings = [Finding(Verdict.EDITED, f"this is no receipt: {error}")]
    told = document.get("receipt")
    receipt: dict[str, Any] = told if isinstance(told, dict) else {}
    if arguments.output is not None:
        try:
            findings += digests.compared(arguments.output, receipt.get("output") or {})
        except (KeyError, TypeError, ValueError, AttributeError):
            findings.append(Finding(Verdict.EDITED, "the receipt has digests that are none: it has been edited"))
        except OSError as error:
            raise CtlError(f"cannot read {error.filename or arguments.output}: {error.strerror}") from error
    else:
        findings.append(Finding(Verdict.VERIFIED, "only the receipt was looked at; give its output with --output DIR"))
    verdict = worst(findings)
    result = {
        "execution_id": str(receipt.get("execution_id", arguments.what[0])),
        "verdict": verdict.value,
        "verified": verdict is Verdict.VERIFIED,
        "findings": [{"verdict": each.verdict.value, "text": each.text} for each in findings],
        "receipt": receipt or None,
    }
    render.show(result, lines_of(result), as_json=arguments.json)
    return EXITS[verdict.value]


def _verify_chain(arguments: Namespace) -> int:
    """Verify all receipts: each by itself, and that none is missing."""
    from ccexecd.storage import chain, proof  # noqa: PLC0415  # with hashlib and the key: only this needs them

    directory, head, pem = _place(arguments)
    key = _key(arguments.public_key) if arguments.public_key is not None else _key_of(pem, str(directory))
    try:
        files = chain.files_in(directory)
        verdict = chain.verify(files, chain.Head(*head) if head is not None else None)
        findings = [each._asdict() | {"file": str(each.file)} for each in verdict.findings]
        for file in files:
            with file.open("rb") as lines:
                told = [each._asdict() | {"file": str(file)} for each in proof.signatures(lines, key)]
            findings += told
    except OSError as error:
        raise CtlError(f"cannot read the receipts: {error.filename}: {error.strerror}") from error
    words = {
        "edited": "edited",
        "forged": "forged",
        "truncated": "truncated",
        "removed": "missing",
        "unsigned": "forged",
    }
    faults = [words.get(each["kind"], "edited") for each in findings if each["kind"] != "mended"]
    code = exit_of(faults or ["verified"])
    document = {
        "whole": not faults,
        "directory": str(directory),
        "key": key.name,
        "records": verdict.records,
        "head": str(verdict.head),
        "anchored": head is not None,
        "findings": findings,
    }
    lines_told = [f"{each['kind']}: {Path(each['file']).name}:{each['line']}: {each['text']}" for each in findings]
    state = "whole" if not faults else "NOT as they were written"
    lines_told.append(f"{directory}: {verdict.records} records, {state}; key {key.name}; head {verdict.head}")
    if head is None:
        lines_told.append("without a daemon, nobody can tell whether receipts are missing at the end")
    render.show(document, lines_told, as_json=arguments.json)
    return code


def _place(arguments: Namespace) -> tuple[Path, tuple[int, str] | None, str]:
    """Find the receipts.

    Returns:
        Their directory; number and hash of the last record if a running daemon tells them, else None; and the public
        key in PEM, empty if there is none.

    Raises:
        CtlError: there is no such directory.
    """
    directory, head = arguments.directory, None
    if directory is None:
        try:
            with connect_to(arguments) as client:
                told = client.call("receipt")
            number, _, digest = str(told["head"] or "").partition(":")
            directory, head = Path(told["directory"]), (int(number), digest) if digest else None
            return directory, head, told["public_key"]
        except (CtlError, KeyError, ValueError):
            directory = locate(arguments).paths.state_dir / "receipts"
    from ccexecd.storage.plain_file import open_plain  # noqa: PLC0415  # only this needs it

    try:
        with open(open_plain(directory / "key.pub"), errors="replace") as file:  # noqa: PTH123  # a descriptor
            pem = file.read()
    except OSError as error:
        if not directory.is_dir():
            raise CtlError(f"cannot read the receipts: {directory}: {error.strerror}") from error
        pem = ""
    return directory, None, pem


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CtlError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}


def _key(path: Path) -> Any:
    try:
        return _key_of(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CtlError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _key_of(pem: str, where: str) -> Any:
    from ccexecd.storage.signing import PublicKey, SigningError  # noqa: PLC0415

    try:
        return PublicKey(pem)
    except SigningError as error:
        raise CtlError(f"cannot verify by {where}: {error}", "ccexecctl receipt --public-key > ccexecd.pem") from error
    except ImportError as error:
        raise CtlError("cannot verify here: the Python package cryptography is not installed") from error
