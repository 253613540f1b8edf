"""Verifies one execution: its receipt, its record in the history and its output must agree.

Owns comparing the three. Must not change anything. It blocks, for about half a second for each gigabyte of output.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ccexecd.core.evidence import Finding, Verdict, asked_of, worst
from ccexecd.storage.chain import opened
from ccexecd.storage.digests import compared, uncovered
from ccexecd.storage.history import Record
from ccexecd.storage.notary import AT_RECOVERY, NONE_WANTED, agent_of, command_digest, has_repeated
from ccexecd.storage.proof import Proof, judged
from ccexecd.storage.receipts import Receipts

_NOT_OF_THE_HISTORY = {
    "n",
    "t",
    "kind",
    "prev",
    "hash",
    "made",
    "labels",
    "agent",
    "command",
    "argv",
    "command_sha256",
    "asked",
    "repeated",
    "output",
}
"""Fields of a receipt that are not in the history in the same form."""


def verified(receipts: Receipts, outputs: Path, record: Record, uuid: str | None) -> dict[str, Any]:
    """Verify one execution.

    Args:
        receipts: the receipts.
        outputs: directory in which each execution's output has a directory.
        record: the execution's record in the history.
        uuid: the UUID that its reply must repeat; None for the one that its labels asked for, if they did.

    Returns:
        `{execution_id, verdict, verified, findings: [{verdict, text}], output, receipt}`. `output` says how much of the
        output could be compared: `whole`, `partly gone`, `gone`, `none`, `not vouched for` or `unknown`.

    Raises:
        SigningError: the key cannot be used.
        OSError: the receipts or the output cannot be read.
    """
    findings = list[Finding]()
    proof = _proof(receipts, record, findings)
    receipt: dict[str, Any] = {}
    output = "unknown"
    if proof is not None:
        findings += judged(proof, receipts.public_key())
        found = opened(proof.record)
        receipt = found.fields if found is not None else {}
    if receipt and not findings:  # a receipt that was edited or forged proves nothing about the rest
        findings += _compared_with_history(receipt, record)
        output = _judge_output(outputs / record.id, receipt, record, findings)
        if receipt.get("made") == AT_RECOVERY:
            findings.append(_remark("the daemon was killed before it could write the receipt: the next one wrote it"))
    wanted = uuid or asked_of(record.description.get("labels", {}), record.id)
    if wanted and record.finished_at is not None:
        reply = outputs / record.id
        is_there = output in ("whole", "partly gone") and reply.is_dir()
        findings += _judged_reply(reply, receipt, wanted, is_there=is_there)
    verdict = worst(findings)
    return {
        "execution_id": record.id,
        "verdict": verdict.value,
        "verified": verdict is Verdict.VERIFIED,
        "findings": [{"verdict": each.verdict.value, "text": each.text} for each in findings],
        "output": output,
        "receipt": receipt or None,
    }


def _proof(receipts: Receipts, record: Record, findings: list[Finding]) -> Proof | None:
    """The execution's receipt; None if there is none, and then a finding says why."""
    number = record.receipt
    proof = receipts.find(number) if number else None
    if number is None:
        findings.append(Finding(Verdict.UNFINISHED, "its receipt has not been written yet"))
    elif number == NONE_WANTED:
        findings.append(Finding(Verdict.MISSING, "no receipt was written: the key `receipts` was off when it ended"))
    elif proof is None and number > receipts.last():
        findings.append(Finding(Verdict.TRUNCATED, f"receipt {number} is missing: the receipts end before it"))
    elif proof is None and number < receipts.oldest():
        findings.append(
            Finding(Verdict.MISSING, f"receipt {number} is too old: receipts before {receipts.oldest()} went")
        )
    elif proof is None:
        findings.append(Finding(Verdict.MISSING, f"receipt {number} is missing: it has been removed"))
    return proof


def _compared_with_history(receipt: Mapping[str, Any], record: Record) -> Iterator[Finding]:
    if receipt.get("execution_id") != record.id:
        yield Finding(Verdict.EDITED, "the receipt that the history names is of another execution")
        return
    known = record.description
    told = [name for name in receipt if name not in _NOT_OF_THE_HISTORY]
    differing = [name for name in told if known.get(name) != receipt[name]]
    labels = receipt.get("labels")
    if labels is not None and "…" not in labels and labels != known.get("labels", {}):
        differing.append("labels")
    if command_digest(known) not in (receipt.get("command_sha256"), command_digest(receipt)):  # or taken from it
        differing.append("command")
    if "agent" in known and receipt.get("agent") != agent_of(known).get("agent"):  # absent if rebuilt from the audit
        differing.append("agent")
    if differing:
        yield Finding(Verdict.EDITED, f"the history has been edited: it differs in {', '.join(sorted(differing))}")


def _judge_output(directory: Path, receipt: Mapping[str, Any], record: Record, findings: list[Finding]) -> str:
    """Compare the output with its digests. Returns how much of it could be compared, as `verified` tells it."""
    files = receipt.get("output")
    if not isinstance(files, dict) or "unreadable" in files:
        findings.append(_remark("its output could not be read when the receipt was written: it is not vouched for"))
        return "not vouched for"
    if not files:
        wrote = bool(receipt.get("stdout_bytes") or receipt.get("stderr_bytes"))
        if wrote:
            findings.append(_remark("its output was not kept on disk: it is not vouched for"))
        return "not vouched for" if wrote else "none"
    if not record.output_bytes:
        findings.append(
            _remark("its output has gone by its age or the total, as the history says: only its digests are left")
        )
        return "gone"
    try:
        findings += compared(directory, files)
        gone = uncovered({name: told for name, told in files.items() if name != "journal"})
    except (KeyError, TypeError, ValueError):
        findings.append(Finding(Verdict.EDITED, "the receipt has digests that are none: it has been edited"))
        return "unknown"
    if gone:
        what = ", ".join(f"{size} bytes of {name}" for name, size in gone.items())
        findings.append(_remark(f"{what} had been given up before they could be digested (`spool_execution_bytes`)"))
    return "partly gone" if gone else "whole"


def _judged_reply(directory: Path, receipt: Mapping[str, Any], uuid: str, *, is_there: bool) -> Iterator[Finding]:
    """Whether the reply repeats a UUID: read from the output or, if that has gone, taken from the receipt."""
    is_told = receipt.get("asked") == uuid
    repeated = has_repeated(directory, uuid) if is_there or not is_told else receipt.get("repeated")
    if repeated:
        yield _remark(f"its reply repeats {uuid}")
    elif is_there or is_told or not receipt.get("stdout_bytes"):
        yield Finding(Verdict.UNREPEATED, f"its reply does not repeat {uuid}")
    else:
        yield Finding(Verdict.UNREPEATED, f"its reply is not there any more, which may have repeated {uuid} or not")


def _remark(text: str) -> Finding:
    return Finding(Verdict.VERIFIED, text)
