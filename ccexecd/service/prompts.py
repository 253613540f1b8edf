"""The methods about the ledger of prompts. Each principal has its own prompts.

Owns which runs count: those of an execution that ran exactly this version and is verified. A run succeeded if the
program ended by itself with exit code 0 and, if it was an agent, was not judged a failure. A client that reports a run
names the execution only: it cannot say how it went.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from ccexecd.core.standing import Tally, compared, difference
from ccexecd.protocol import messages
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.protocol.prompts import PromptsRecord, PromptsShow
from ccexecd.records import Ledger, LedgerError
from ccexecd.service.dispatch import Kind, Method
from ccexecd.service.evidence import verify
from ccexecd.service.peer import Peer

log = logging.getLogger(__name__)

R = TypeVar("R")

PROMPT, VERSION, DIGEST = "prompt", "prompt_version", "prompt_sha256"
"""Labels of an execution that runs a prompt: the prompt's name, its version, and the SHA-256 of its text."""

_ENDED = ("exited", "post_result")
"""Reasons that mean that the program came to its own end."""


async def prompts_list(peer: Peer, _: messages.Nothing) -> dict[str, Any]:
    """`prompts_list`: every prompt of the caller with its newest version, the one in production, and their tallies."""
    known = await _ask(peer, lambda ledger: ledger.versions(peer.principal.name))
    names = dict.fromkeys(each.name for each in known)
    return {"prompts": [_summary([each for each in known if each.name == name]) for name in names]}


async def prompts_show(peer: Peer, wanted: PromptsShow) -> dict[str, Any]:
    """`prompts_show`: one version with its text, and every version's tally compared with it."""
    owner = peer.principal.name
    shown = await _ask(peer, lambda ledger: ledger.version(owner, wanted.name, wanted.version))
    known = await _ask(peer, lambda ledger: ledger.versions(owner, wanted.name))
    versions = [_told(each) | _comparison(each.tally, shown.tally) for each in known]
    return {**_told(shown), "text": shown.text, "sha256": shown.sha256, "versions": versions}


async def prompts_record(peer: Peer, wanted: PromptsRecord) -> dict[str, Any]:
    """`prompts_record`: put a new version on record."""
    owner = peer.principal.name
    number = await _ask(
        peer, lambda ledger: ledger.add(owner, wanted.name, wanted.kind, wanted.text, wanted.why.strip())
    )
    return {"name": wanted.name, "version": number}


async def prompts_count(peer: Peer, wanted: messages.Verify) -> dict[str, Any]:
    """`prompts_count`: count the run of a verified execution for the version that it ran, once."""
    evidence = await verify(peer, wanted)
    if not evidence["verified"]:
        found = "; ".join(each["text"] for each in evidence["findings"])
        raise _refusal(f"execution {evidence['execution_id']} is not verified ({evidence['verdict']}): {found}")
    receipt = evidence["receipt"]
    if receipt.get("principal") != peer.principal.name:
        raise _refusal("only its own principal's runs count for a prompt")
    labels, owner = receipt.get("labels", {}), peer.principal.name
    if not str(labels.get(VERSION, "")).isdecimal() or PROMPT not in labels:
        raise _refusal(f"the execution has not run a prompt: it lacks the labels {PROMPT}, {VERSION} and {DIGEST}")
    known = await _ask(peer, lambda ledger: ledger.version(owner, labels[PROMPT], int(labels[VERSION])))
    if labels.get(DIGEST) != known.sha256:
        raise _refusal(f"the execution has run another text than version {known.version} of {known.name}")
    succeeded = receipt.get("exit_code") == 0 and receipt.get("reason") in _ENDED
    succeeded = succeeded and (receipt.get("agent") or {}).get("is_success") is not False
    is_new = await _ask(peer, lambda ledger: ledger.count(owner, known, evidence["execution_id"], succeeded=succeeded))
    now = await _ask(peer, lambda ledger: ledger.version(owner, known.name, known.version))
    demoted = known.is_production and not now.is_production
    return {**_told(now), "succeeded": succeeded, "counted": is_new, "demoted": demoted}


async def prompts_graduate(peer: Peer, wanted: PromptsShow) -> dict[str, Any]:
    """`prompts_graduate`: take a version, the newest if none is named, into production if its tally is fit for that."""
    owner = peer.principal.name
    known = await _ask(peer, lambda ledger: ledger.versions(owner, wanted.name))
    number = wanted.version if wanted.version is not None else known[-1].version if known else None
    chosen = await _ask(peer, lambda ledger: ledger.version(owner, wanted.name, number))
    await _ask(peer, lambda ledger: ledger.graduate(owner, chosen))
    return {**_told(chosen), "production": True}


async def prompts_history(peer: Peer, wanted: PromptsShow) -> dict[str, Any]:
    """`prompts_history`: the events of a prompt, or of one version of it, the oldest first."""
    told = await _ask(peer, lambda ledger: ledger.history(peer.principal.name, wanted.name))
    events = [each for each in told if wanted.version in (None, each["version"])]
    if not events:
        raise _refusal(f"there is no prompt {wanted.name!r}")
    return {"events": [{**each, "at": _stamp(each["at"])} for each in events]}


def _summary(versions: list[Any]) -> dict[str, Any]:
    newest = versions[-1]
    production = next((each for each in versions if each.is_production), None)
    return {
        "name": newest.name,
        "kind": newest.kind,
        "newest": _told(newest),
        "production_version": _told(production) if production is not None else None,
    }


def _told(version: Any) -> dict[str, Any]:
    tally: Tally = version.tally
    low, high = tally.interval
    return {
        "name": version.name,
        "version": version.version,
        "kind": version.kind,
        "why": version.why,
        "created_at": _stamp(version.created_at),
        "successes": tally.successes,
        "failures": tally.failures,
        "rate": tally.rate,
        "interval": [round(low, 6), round(high, 6)],
        "lacking": tally.lacking,
        "production": version.is_production,
    }


def _comparison(one: Tally, shown: Tally) -> dict[str, Any]:
    """How one version's tally compares with that of the version shown."""
    apart = difference(one, shown)
    return {"compared": compared(one, shown), "difference": [round(each, 6) for each in apart] if apart else None}


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _refusal(text: str) -> RPCError:
    return RPCError(ErrorCode.INVALID_STATE, text)


async def _ask(peer: Peer, deed: Callable[[Ledger], R]) -> R:
    try:
        return await peer.engine.records.in_ledger(deed)
    except LedgerError as error:
        raise _refusal(str(error)) from None
    except OSError as error:
        log.error("the ledger of prompts cannot be used: %s", error)  # noqa: TRY400  # no fault of the program
        text = "the ledger of prompts cannot be used; the daemon's log has the details"
        raise RPCError(ErrorCode.INTERNAL_ERROR, text) from None


PROMPT_METHODS = {
    "prompts_list": Method(messages.Nothing, prompts_list),
    "prompts_show": Method(PromptsShow, prompts_show),
    "prompts_history": Method(PromptsShow, prompts_history),
    "prompts_record": Method(PromptsRecord, prompts_record),
    "prompts_count": Method(messages.Verify, prompts_count, Kind.WAITING),
    "prompts_graduate": Method(PromptsShow, prompts_graduate),
}
"""Name -> method, served at both doors."""
