"""Judges how a run of an agent went, from its exit code and its own report, and says what to do about it.

Neither suffices alone. Claude Code exits with 1 and reports the subtype "success" when the API has failed; it
exits with 0 when it was interrupted, or when the end of its output is missing; older versions exit with 0 and say
`is_error: false` when the turns ran out. Owns the judgement, and the words of older versions, which have no fields for
it. Text is looked at in an error that the agent reports as one, never in an answer, a prompt or a tool's result.
"""

import re
from enum import Enum

import attrs

from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.conversation import Conversation
from ccexecd.agents.events import Result

TOLD = 500
"""Characters of an agent's own words that a verdict has."""

MOST_DENIED = 20
"""Most tools that a verdict names as denied."""


class Cause(Enum):
    """How a run went."""

    SUCCESS = "success"
    UNVERIFIED = "unverified"
    API_ERROR = "api_error"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    UNREACHABLE = "unreachable"
    NOT_LOGGED_IN = "not_logged_in"
    NO_CREDIT = "no_credit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105  # of a model
    REFUSED = "refused"
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    PERMISSION_DENIED = "permission_denied"
    NOT_ACCEPTED = "not_accepted"
    INTERRUPTED = "interrupted"
    TRUNCATED = "truncated"
    CRASHED = "crashed"
    FAILED = "failed"


ADVICE = {
    Cause.SUCCESS: "It finished.",
    Cause.UNVERIFIED: "It ended with exit code 0, and what it printed does not tell more: have it print events.",
    Cause.API_ERROR: "The model's API failed: try again; if it stays, look at the status page of the provider.",
    Cause.RATE_LIMITED: "A limit of the account is reached: wait until it is reset, or run fewer at the same time.",
    Cause.OVERLOADED: "The provider is overloaded, which passes: try again in some minutes.",
    Cause.UNREACHABLE: "The model's API could not be reached: look at network, proxy and the address of the API.",
    Cause.NOT_LOGGED_IN: "It is not logged in: log in as the user that it runs as, or give it an API key.",
    Cause.NO_CREDIT: "The account has no credit left: add some, or use another account.",
    Cause.TOKEN_LIMIT: "More tokens than the model takes or gives: ask for less at a time, or give it less to read.",
    Cause.REFUSED: "The model declined to answer: word the request differently.",
    Cause.MAX_TURNS: "The turns that it was allowed ran out: allow more, or resume the conversation.",
    Cause.BUDGET: "The money that it was allowed ran out: allow more, or resume the conversation.",
    Cause.PERMISSION_DENIED: "It was not allowed to use its tools: allow those that it needs.",
    Cause.NOT_ACCEPTED: "The program did not accept its command line or configuration: its error output says why.",
    Cause.INTERRUPTED: "It was interrupted before it had finished: run it again, or resume the conversation.",
    Cause.TRUNCATED: "It ended without a result, so that its output is not complete: run it again.",
    Cause.CRASHED: "The program crashed: run it again; if it stays, its error output may say why.",
    Cause.FAILED: "It failed, for none of the known reasons: what it said, or its error output, may tell more.",
}
"""What is said about each, and what to do."""

RETRYABLE = frozenset(
    {Cause.API_ERROR, Cause.RATE_LIMITED, Cause.OVERLOADED, Cause.UNREACHABLE, Cause.TRUNCATED, Cause.CRASHED}
)
"""Causes that the same request may not meet again later."""

ROOT_ADVICE = "It does not skip permissions as root: run it as another user, or set IS_SANDBOX=1 inside of a sandbox."


@attrs.frozen
class Verdict:
    """How a run went.

    Attributes:
        cause: how the run went, in one word.
        advice: what that means and what to do, in a sentence.
        text: the agent's own words for it, cut; empty if it said nothing.
        status: HTTP status of the API's error; None if there was none. So with the others.
        resets_at: when a rate limit ends, in seconds since the epoch.
        limit: how many tokens are allowed.
        denied: names of the tools that it was not allowed to use, each once.
    """

    cause: Cause
    advice: str
    text: str = ""
    status: int | None = None
    resets_at: float | None = None
    limit: int | None = None
    denied: tuple[str, ...] = ()

    @property
    def is_success(self) -> bool:
        """Whether the agent has shown that it did what it was asked for."""
        return self.cause is Cause.SUCCESS

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may do better later."""
        return self.cause in RETRYABLE


def judge(
    adapter: Adapter,
    shape: Shape,
    exit_code: int | None,
    conversation: Conversation,
    *,
    said: str = "",
    complaint: str = "",
) -> Verdict:
    """Judge a run that has ended.

    Args:
        adapter: what is known of this kind of agent.
        shape: the form of its output.
        exit_code: its exit code, -N if signal N ended it; None if that is not known.
        conversation: its events, added up.
        said: the beginning of its output, if that is plain text.
        complaint: the end of its standard error.
    """
    result = conversation.result
    if result is not None and not conversation.is_open:
        return judge_result(result, conversation, exit_code)
    ended = _by_exit_code(adapter, exit_code)
    if conversation.events or shape is not Shape.TEXT:
        trouble = _last_trouble(conversation)
        return _without_result(ended, exit_code, trouble, complaint, is_unread=conversation.has_unread)
    if exit_code == 0:
        return _verdict(Cause.UNVERIFIED, "")
    return _without_result(ended, exit_code, said, complaint)


def judge_result(result: Result, conversation: Conversation, exit_code: int | None = 0) -> Verdict:
    """Judge a turn that has ended with a result.

    Args:
        result: the result.
        conversation: the events so far, added up.
        exit_code: exit code of the program; 0 if it has not ended, None if it is not known.
    """
    denied = tuple(dict.fromkeys(conversation.denied))[:MOST_DENIED]
    if not result.is_error and result.subtype == "success" and exit_code == 0:
        if conversation.denied and len(conversation.denied) >= conversation.tool_uses:
            return _verdict(Cause.PERMISSION_DENIED, result.text, denied=denied)
        return _verdict(Cause.SUCCESS, "", denied=denied)
    if not result.is_error and result.subtype == "success":  # its own word is good, its end is not
        signal = _by_signal(exit_code)
        return _verdict(signal or Cause.FAILED, "its result was reported, and good", denied=denied)
    cause = _by_subtype(result, conversation)
    if cause is None:
        kind = conversation.failure.kind if conversation.failure is not None else ""
        cause = _by_words(result.text, _status(result), kind or result.why)
    found = _verdict(cause, result.text, status=_status(result), denied=denied)
    if cause is Cause.RATE_LIMITED and found.resets_at is None and conversation.limit is not None:
        return attrs.evolve(found, resets_at=conversation.limit.resets_at)
    return found


def _verdict(cause: Cause, text: str, *, status: int | None = None, denied: tuple[str, ...] = ()) -> Verdict:
    resets = _RESETS.search(text) if cause is Cause.RATE_LIMITED else None
    limit = _LIMIT.search(text) if cause is Cause.TOKEN_LIMIT else None
    return Verdict(
        cause=cause,
        advice=ROOT_ADVICE if cause is Cause.PERMISSION_DENIED and _ROOT.search(text) else ADVICE[cause],
        text=text[:TOLD],
        status=status,
        resets_at=float(resets[1]) if resets is not None else None,
        limit=int(next(each for each in limit.groups() if each)) if limit is not None else None,
        denied=denied,
    )


# What the fields say

_SUBTYPES = {
    "error_max_turns": Cause.MAX_TURNS,
    "error_max_budget_usd": Cause.BUDGET,
}
_REASONS = {
    "max_turns": Cause.MAX_TURNS,
    "prompt_too_long": Cause.TOKEN_LIMIT,
    "FatalTurnLimitedError": Cause.MAX_TURNS,
}
_KINDS = {
    "rate_limit": Cause.RATE_LIMITED,
    "authentication_failed": Cause.NOT_LOGGED_IN,
    "billing_error": Cause.NO_CREDIT,
    "max_output_tokens": Cause.TOKEN_LIMIT,
    "TerminalQuotaError": Cause.RATE_LIMITED,
    "RetryableQuotaError": Cause.RATE_LIMITED,
    "FatalAuthenticationError": Cause.NOT_LOGGED_IN,
    "FatalCancellationError": Cause.INTERRUPTED,
}
"""Words of Claude Code's messages, and names of Gemini's errors, that say it all."""

_STATUSES = {401: Cause.NOT_LOGGED_IN, 402: Cause.NO_CREDIT, 403: Cause.NOT_LOGGED_IN, 529: Cause.OVERLOADED}


def _by_subtype(result: Result, conversation: Conversation) -> Cause | None:
    if result.subtype in _SUBTYPES:
        return _SUBTYPES[result.subtype]
    if result.why in _REASONS:
        return _REASONS[result.why]
    if conversation.was_interrupted or result.why.startswith("aborted"):
        return Cause.INTERRUPTED
    return Cause.FAILED if result.subtype == "error_during_execution" else None


def _status(result: Result) -> int | None:
    if result.status is not None:
        return result.status
    told = _STATUS.search(result.text)
    return int(next(each for each in told.groups() if each)) if told is not None else None


def _by_exit_code(adapter: Adapter, exit_code: int | None) -> Cause | None:
    if exit_code is not None and exit_code in adapter.causes:
        return Cause[adapter.causes[exit_code]]
    return _by_signal(exit_code)


def _by_signal(exit_code: int | None) -> Cause | None:
    """HUP, INT, KILL and TERM are somebody's wish; other signals are the program's own end."""
    if exit_code is None:
        return None
    signal = -exit_code if exit_code < 0 else exit_code - 128
    if signal in (1, 2, 9, 15):
        return Cause.INTERRUPTED
    return Cause.CRASHED if 0 < signal <= 64 else None


def _last_trouble(conversation: Conversation) -> str:
    """What it last said of a failure, or what it was waiting for."""
    retry = conversation.retry
    if retry is not None:
        status = "" if retry.status is None else f" ({retry.status})"
        most = "" if retry.most is None else f" of {retry.most}"
        return f"while it asked the API again (attempt {retry.attempt}{most}), after: {retry.error}{status}"
    return conversation.failure.text if conversation.failure is not None else ""


def _without_result(
    ended: Cause | None, exit_code: int | None, told: str, complaint: str, *, is_unread: bool = False
) -> Verdict:
    if ended is not None:
        return _verdict(ended, told or complaint)
    if exit_code in (0, None):
        return _verdict(Cause.UNVERIFIED if is_unread else Cause.TRUNCATED, told)
    for text in (told, complaint):
        cause = _by_words(text, None, "") if _SPEAKS.match(text) else _by_complaint(text)
        if cause is not Cause.FAILED:
            return _verdict(cause, text)
    return _verdict(Cause.FAILED, told or complaint)


# What the words say, where there are no fields

_STATUS = re.compile(r"API Error: (\d{3})\b|^API Error: [^\n]{0,80}?\((\d{3})\)|(?:unexpected|last) status:? (\d{3})\b")
_RESETS = re.compile(r"(?:limit reached\||resets at )(\d{10})\b")
_LIMIT = re.compile(r"(\d{3,9}) output token maximum|\(limit (\d{3,9})\)|> (\d{3,9}) maximum")
_ROOT = re.compile(r"cannot be used with root")

_SPEAKS = re.compile(
    r"API Error\b|Claude AI usage limit reached|You've hit your [\w ]{0,30}limit|Prompt is too long|Not logged in"
    r"|Invalid API key|Credit balance is too low|Request timed out|Failed to authenticate",
    re.IGNORECASE,
)
"""How the whole of an output begins that is an error and no answer."""

_WORDS = (
    (
        re.compile(r"usage limit|hit your [\w ]{0,30}limit|quota exceeded|rate.?limit|spend cap", re.IGNORECASE),
        Cause.RATE_LIMITED,
    ),
    (re.compile(r"not logged in|/login|invalid api key|authenticat", re.IGNORECASE), Cause.NOT_LOGGED_IN),
    (re.compile(r"credit balance|out of credits|billing", re.IGNORECASE), Cause.NO_CREDIT),
    (
        re.compile(
            r"output token maximum|prompt is too long|context window|maximum context|tokens? limit", re.IGNORECASE
        ),
        Cause.TOKEN_LIMIT,
    ),
    (re.compile(r"overloaded|at capacity|high demand", re.IGNORECASE), Cause.OVERLOADED),
    (re.compile(r"unable to respond to this request|usage policy", re.IGNORECASE), Cause.REFUSED),
    (
        re.compile(
            r"connection (?:error|refused|failed)|can't reach|unable to connect|request timed out|ECONN", re.IGNORECASE
        ),
        Cause.UNREACHABLE,
    ),
)
"""Words of errors and what they mean, the plainest first."""

_COMPLAINTS = (
    (_ROOT, Cause.PERMISSION_DENIED),
    (
        re.compile(
            r"unknown option|unexpected argument|requires --verbose|must be provided|invalid value", re.IGNORECASE
        ),
        Cause.NOT_ACCEPTED,
    ),
)


def _by_words(text: str, status: int | None, kind: str) -> Cause:
    if kind in _KINDS:
        return _KINDS[kind]
    if status == 429:
        return Cause.RATE_LIMITED
    if status in _STATUSES:
        return _STATUSES[status]
    beginning = text[: 4 * TOLD]
    found = next((cause for pattern, cause in _WORDS if pattern.search(beginning)), None)
    if found is not None:
        return found
    return Cause.API_ERROR if status is not None or beginning.startswith("API Error") else Cause.FAILED


def _by_complaint(text: str) -> Cause:
    return next((cause for pattern, cause in _COMPLAINTS if pattern.search(text)), Cause.FAILED)
