"""stats: percentiles as people read them."""

GROUP = {
    "name": "make test",
    "runs": 12,
    "complete": 10,
    "timed_out": 1,
    "p50": 80.0,
    "p90": 90.0,
    "p95": 95.0,
    "p99": 99.0,
    "longest": 100.0,
    "total_seconds": 7200.0,
}


def test_a_table(ctl, daemon):
    """A line for each group, as the daemon gave them; a dash where nothing came to its end."""
    spans = ("p50", "p90", "p95", "p99", "longest")
    hung = {**GROUP, "name": "evil\x1b[2J", "runs": 1, "complete": 0, **dict.fromkeys(spans)}
    daemon.answers["stats"] = {"by": "program", "groups": [GROUP, hung]}
    header, first, second = ctl("stats").out.splitlines()
    assert header.split() == [
        *("RUNS", "ENDED", "WELL", "TIMED", "OUT", "P50", "P90", "P95", "P99", "LONGEST", "TOTAL", "NAME")
    ]
    assert first.split() == [*("12", "10", "1", "1m20s", "1m30s", "1m35s", "1m39s", "1m40s", "2h00m", "make", "test")]
    assert second.split() == ["1", "0", "1", "-", "-", "-", "-", "-", "2h00m", "evil\\x1b[2J"]
    assert daemon.asked("stats") == [{"by": "program"}]


def test_what_is_asked_for(ctl, daemon):
    """By what they are told apart, and which; JSON is as the daemon gave it."""
    daemon.answers["stats"] = told = {"by": "form", "groups": [GROUP]}
    assert ctl("stats", "--by", "form", "--category", "test", "--since", "60", "--json").json == told
    assert daemon.asked("stats") == [{"by": "form", "category": "test", "since": 60.0}]
    assert ctl("stats", "--by", "command").code == 2
