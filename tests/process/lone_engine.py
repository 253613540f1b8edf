"""A daemon without doors, to be killed: it executes what standard input lists, and tells when all of it is in place.

Run as a program, with the word ``walk`` for one that makes no control groups; reads JSON from standard input: ``[[argv,
lines, leftovers], …]``, where `lines` tells when a program is in place, and `leftovers` what becomes of those that it
leaves: under "detach", in place means finished. Writes one line, ``up KEEPER_PID``, and waits for ever.
"""

import json
import os
import sys

import trio

from ccexecd.config import Config
from ccexecd.core.entries import Chunk
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine, Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.pump import Pump

GRACE = 0.5


def lines_of(execution: Execution) -> int:
    """How many lines it has written to its standard output."""
    cursor = execution.log.cursor(0)
    entries = list(iter(cursor.take, None))
    cursor.close()
    return sum(each.piece.text.count(b"\n") for each in entries if isinstance(each, Chunk))


async def main() -> None:
    """Run until killed."""
    keeper, pump = KeeperClient(0o022, with_groups="walk" not in sys.argv), Pump()
    engine = Engine(Config(), keeper, pump, os.environ)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        nursery.start_soon(pump.run)
        await nursery.start(engine.run)
        session = await engine.open_session("test")
        listed = json.load(sys.stdin)
        executions = [
            engine.admit(session, Spec(tuple(argv), argv[0], grace=GRACE, leftovers=leftovers))
            for argv, _, leftovers in listed
        ]
        for execution, (_, lines, leftovers) in zip(executions, listed, strict=True):
            while lines_of(execution) < lines:
                await trio.sleep(0.005)
            if leftovers == "detach":
                await execution.finished.wait()
        print(f"up {keeper.pid}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
