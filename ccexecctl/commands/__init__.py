"""One file for each verb of ccexecctl, all of the same shape.

Owns the list of verbs. A verb's module has `DESCRIPTION` and `EXAMPLES` (its help), `configure(parser)`, which adds its
own options, and `run(arguments)`, which does it, prints the result and returns the exit code. It raises `CtlError` for
what goes wrong. Nothing here imports a verb before it is chosen.
"""

import argparse
from importlib import import_module
from typing import Protocol, cast

SUMMARIES = {
    "start": "start the daemon of this user",
    "stop": "end the daemon and everything it runs",
    "restart": "stop it and start it again with the same flags",
    "reload": "read the configuration again and reopen the log",
    "status": "what the daemon is and does",
    "health": "whether it is fit for work, as an exit code",
    "run": "run a command as if it ran here",
    "agent": "have a coding agent do a task",
    "tasks": "have the tasks of a file done, one after another",
    "ps": "list the executions",
    "history": "list past executions and how long they took",
    "stats": "how long what took, in percentiles",
    "estimate": "how long a command may take, by past runs",
    "logs": "the output of an execution",
    "attach": "be with an execution: its output, your keys",
    "pause": "stop every process of an execution until resumed",
    "resume": "let a paused execution go on",
    "cancel": "end an execution: TERM, grace, KILL",
    "kill": "end an execution at once with KILL",
    "release": "let an execution run that is held after a crash",
    "drop": "end an execution that is held after a crash",
    "token": "show or change the tokens that admit clients",
    "policy": "show what may run, or why something may or may not",
    "hooks": "list, try and test the programs that are called at events",
    "verify": "whether executions happened as is said",
    "receipt": "hand out the receipt of an execution",
    "prompts": "prompts, what became of their versions, and which is in use",
    "audit": "verify the audit, or look into it",
    "stress": "test a daemon with an agent, or with a stand-in",
    "config": "show or check the configuration",
    "version": "the versions of ccexecctl and of the daemon",
}
"""Every verb, in the order of the help, with the line that stands for it there."""


class Verb(Protocol):
    """The interface of a verb's module."""

    DESCRIPTION: str
    EXAMPLES: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments and options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Execute the verb, and print the result. Returns the exit code; raises CtlError."""


def load(verb: str) -> Verb:
    """Import the module of one verb, a key of `SUMMARIES`."""
    return cast("Verb", import_module(f"{__name__}.{verb}"))
