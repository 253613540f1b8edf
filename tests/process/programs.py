"""Programs that do not want to end, and others that make an execution's life hard.

Owns how each misbehaves. A `Program` says how many lines of output tell that its misbehaviour is in place, so that no
test has to guess when: until then it would be tested on an ordinary program. Must not know what is expected of them.
"""

import sys
from typing import NamedTuple


class Program(NamedTuple):
    """One program.

    Attributes:
        argv: how to start it.
        lines: lines of output after which it is as bad as it gets.
        living: its processes at that moment, at least.
    """

    argv: tuple[str, ...]
    lines: int = 1
    living: int = 1


def python(code: str, *words: str) -> tuple[str, ...]:
    """Run Python code, without site-packages: it starts in 15 ms."""
    return (sys.executable, "-I", "-S", "-c", code, *words)


def sh(script: str, *words: str) -> tuple[str, ...]:
    """Run a shell script."""
    return ("sh", "-c", script, "sh", *words)


SLEEPER = ("sleep", "1000")
"""An ordinary program that ends at TERM."""

NEVER = "while :; do sleep 1000; done"

TERM_PROOF = Program(sh(f"trap '' TERM; echo ready; {NEVER}"), living=1)
"""The leader and, by inheritance, everything that it starts ignore TERM."""

TERM_PROOF_CHILD = Program(sh(f"sh -c 'trap \"\" TERM; echo ready; {NEVER}' & wait"), living=2)

TERM_PROOF_GRANDCHILD = Program(
    sh('sh -c "$1" sh "$2" & wait', 'sh -c "$1" & wait', f"trap '' TERM; echo ready; {NEVER}"), living=3
)

OWN_SESSION = Program(sh("setsid sh -c 'echo ready; exec sleep 1000' & wait"), living=2)
"""A child in a session of its own, as every Claude Code version runs its tools."""

NOHUP = Program(sh("nohup sh -c 'echo ready; exec sleep 1000' & wait"), living=2)

CLEAN_ENVIRONMENT = Program(sh("env -i setsid sh -c 'echo ready; exec sleep 1000' & wait"), living=2)
"""A child that carries no mark in its environment."""

_DAEMONIZE = """
import os, signal, time
def daemonize():
    heard, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            os.write(told, b'.')
            time.sleep(1000)
        os._exit(0)
    os.wait()
    os.read(heard, 1)
    os.close(heard)
    os.close(told)
    os.write(1, b'ready\\n')
"""
"""Its caller says so when the daemon is deaf and its parent is gone, so that nothing of it is still on its way."""

DOUBLE_FORK = Program(python(_DAEMONIZE + "daemonize()\ntime.sleep(1000)"), living=2)
"""A daemon, deaf to TERM, whose parent is gone; its leader lives."""

TWENTY_DAEMONS = Program(python(_DAEMONIZE + "for _ in range(20): daemonize()\ntime.sleep(1000)"), lines=20, living=21)

LEADER_FIRST = Program(python(_DAEMONIZE + "daemonize()\nprint('leader done', flush=True)"), lines=2, living=1)
"""The leader ends well, and leaves a daemon that is deaf to TERM and holds the pipes."""

PIPE_HOLDER = Program(sh("echo before; sleep 1000 & exit 0"), living=1)
"""The leader ends well; a child in its own group keeps the pipes open."""

HYDRA = Program(
    python(
        """
import os, signal, sys, time
def again(*_):
    depth = int(sys.argv[1])
    for _ in range(2 if depth else 0):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [*sys.orig_argv[:-1], str(depth - 1)], {})
            os._exit(0)
signal.signal(signal.SIGTERM, again)
os.write(1, b'ready\\n')
while True:
    time.sleep(1000)
""",
        "2",
    ),
)
"""For each TERM, two more of it, elsewhere."""

_HOP = """
def hop(pause):
    for _ in range(8000):
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(pause)
"""
"""It ends by itself after ten seconds or so: one that did escape would use up every pid of the machine."""

HOPPER = Program(
    python(
        "import os, time\n"
        + _HOP
        + "if os.fork() == 0:\n    os.write(1, b'ready\\n')\n    hop(0.001)\ntime.sleep(1000)"
    ),
    living=1,
)
"""A descendant that is another process every millisecond, so that no list of pids is true for long."""

HOPPING_LEADER = Program(python("import os, time\n" + _HOP + "os.write(1, b'ready\\n')\nhop(0.001)"), living=0)
"""The same, and the leader is the first to go."""

HEADLESS = Program(
    python(
        """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print('ready', flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
    ),
)
"""Its main thread has ended, another goes on: /proc calls the process a zombie, and it is not."""

SELF_STOPPED = Program(sh("echo ready; kill -STOP $$; echo never reached before it is continued; sleep 1000"), living=1)
"""Stopped by itself: it cannot hear TERM."""

LAST_WORDS = Program(
    python(
        """
import os, signal, time
def end(*_):
    for _ in range(20):
        time.sleep(0.005)
        os.write(1, b'.')
    os.write(1, b'last words\\n')
    os._exit(7)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
while True:
    time.sleep(1000)
"""
    )
)
"""It takes its time to end at TERM, and would end by EPIPE if its output was closed meanwhile."""

HOSTILE = {
    "TERM ignored in the leader": TERM_PROOF,
    "TERM ignored in a child": TERM_PROOF_CHILD,
    "TERM ignored in a grandchild": TERM_PROOF_GRANDCHILD,
    "setsid": OWN_SESSION,
    "nohup": NOHUP,
    "env -i": CLEAN_ENVIRONMENT,
    "double fork": DOUBLE_FORK,
    "twenty daemons": TWENTY_DAEMONS,
    "leader dead before its children": LEADER_FIRST,
    "pipe held by a descendant": PIPE_HOLDER,
    "hydra": HYDRA,
    "hopper": HOPPER,
    "hopping leader": HOPPING_LEADER,
    "main thread ended": HEADLESS,
    "stopped by itself": SELF_STOPPED,
}
"""All that must not survive its execution, whatever ends that."""

STAYING = {
    name: program for name, program in HOSTILE.items() if program not in (LEADER_FIRST, PIPE_HOLDER, HOPPING_LEADER)
}
"""Those of them whose leader does not end by itself."""
