"""Estimated time-outs, held against fixed ones on recorded runs: benchmarks/replay.py."""

import importlib.util
import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "replay.py"


@pytest.fixture(scope="module")
def replay():
    """The program, as a module."""
    spec = importlib.util.spec_from_file_location("replay", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("hang", [7, 10])
def test_estimates_beat_every_fixed_time_out(replay, hang):
    """None ends fewer runs falsely, and each that ends as few waits longer for what hangs: 1.5 times at least."""
    results = replay.compare(replay.read(replay.RECORDED), hang)
    estimates = [result for name, result in results.items() if name.startswith("estimates")]
    fixed = [result for name, result in results.items() if name.startswith("fixed")]
    assert len(estimates) == 2
    assert estimates[0].hung > 20
    for estimate in estimates:
        assert estimate.false == 0
        for other in fixed:
            assert other.false > 0 or other.waited > 1.5 * estimate.waited
        assert any(other.false > 0 and other.waited > estimate.waited for other in fixed)  # worse in both


def test_a_history_can_be_replayed(replay, tmp_path):
    """As `ccexecctl history --json` prints it: newest first, with what never ran among it."""
    row = {"principal": "me", "command": "make", "category": "build", "program": "make", "form": "make", "load": 0.0}
    row |= {"reason": "exited", "exit_code": 0}
    rows = [{**row, "active_seconds": seconds} for seconds in (3.0, None, 2.0, 1.0)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    runs = replay.read(tmp_path / "mine.json")
    assert [run.seconds for run in runs] == [1.0, 2.0, 3.0]
    assert replay.replay(runs, replay.fixed(2.5), hang=2) == replay.Result(3, 1, 1, 2.5, 2.5)
