"""Lists of tasks in files, and how far they have come."""

import json
from pathlib import Path

import pytest

from ccexecctl.api.results import AgentResult, Usage, Validation
from ccexecctl.api.task_file import State, read_tasks
from ccexecctl.api.task_list import Status, Task, TaskResult
from ccexecctl.errors import CtlError, UsageError

TOML = """
on_failure = "continue"
[options]
timeout = 600
[[task]]
name = "plan"
prompt = "Make a plan."
[[task]]
depends = ["plan"]
prompt = "Judge it: {{plan}}"
model = "opus"
"""

MARKDOWN = """# A list

What stands here belongs to no task.

## plan

Make a plan.

```sh
## this is no heading
```

### Nor does this one begin a task

Depends: is a word like any other here.

## the *judge*
depends: plan
timeout: 600
allowed_tools: Bash, Read

Judge it: {{plan}}
"""


def written(directory: Path, name: str, text: str) -> Path:
    """A file with a text in it."""
    path = directory / name
    path.write_text(text)
    return path


def test_toml(tmp_path):
    """Tasks, their names (or numbers), what they depend on, and options for all and for one."""
    found = read_tasks(written(tmp_path, "tasks.toml", TOML))
    assert found.tasks == (
        Task("Make a plan.", "plan"),
        Task("Judge it: {{plan}}", "2", ["plan"], {"model": "opus"}),
    )
    assert (found.options, found.on_failure) == ({"timeout": 600}, "continue")


def test_markdown(tmp_path):
    """Headings of the second level are tasks, as CommonMark understands them; the prompt is left as it is written."""
    plan, judge = read_tasks(written(tmp_path, "tasks.md", MARKDOWN)).tasks
    assert (plan.name, plan.depends) == ("plan", ())
    assert plan.prompt.startswith("Make a plan.\n\n```sh\n## this is no heading\n```\n\n### Nor")
    assert plan.prompt.endswith("here.")
    options = {"timeout": 600, "allowed_tools": ["Bash", "Read"]}
    assert judge == Task("Judge it: {{plan}}", "the *judge*", ["plan"], options)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "[[task", "not TOML"),
        ("a.toml", "x = 1", "no key 'x'"),
        ("a.toml", "task = 1", "no tasks"),
        ("a.toml", "[[task]]\nname = 'x'", "task 1 needs a prompt"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\nmodle = 'opus'", "no option 'modle'"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\ndepends = 'x'", "depends is a list"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\ndepends = ['y']", "depends on 'y'"),
        ("a.toml", "on_failure = 'go'\n[[task]]\nprompt = 'x y z'", "on_failure"),
        ("a.toml", "options = 3\n[[task]]\nprompt = 'x y z'", "not a table"),
        ("a.md", "# nothing", "no tasks"),
        ("a.md", "## x\none\n## x\ntwo", "two tasks are called 'x'"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, name, text, told):
    """With the file, the place, and what would be right."""
    with pytest.raises(UsageError, match=told) as refused:
        read_tasks(written(tmp_path, name, text))
    assert name in refused.value.message


def test_files_that_are_none(tmp_path):
    """Missing, or not text."""
    with pytest.raises(UsageError, match="cannot read"):
        read_tasks(tmp_path / "missing.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_tasks(tmp_path / "a.toml")


RESULT = AgentResult(
    *(
        "uuid",
        "session",
        "2026-01-01T00:00:00+00:00",
        "task",
        "said",
        {"a": [1]},
        None,
        "",
        "success",
        0,
        "exited",
        1.5,
    ),
    usage=Usage(1, 2, others=(("x", 3),)),
    files_created=("/a",),
    validation=Validation(True, "fine", "other"),
)


def test_a_result_comes_back_from_json():
    """What is kept in a file is the same again."""
    assert AgentResult.from_dict(json.loads(json.dumps(RESULT.as_dict()))) == RESULT


def test_what_is_done_is_remembered(tmp_path):
    """Until the task or what goes into it changes."""
    task, path = Task("Make a plan.", "plan"), tmp_path / "state.json"
    state = State(path)
    assert state.recall(task, task.prompt) is None
    state.begin(task, task.prompt)
    assert State(path).recall(task, task.prompt) is None
    state.note(TaskResult("plan", Status.DONE, RESULT))
    assert State(path).recall(task, task.prompt) == TaskResult("plan", Status.DONE, RESULT)
    assert State(path).recall(task, "another prompt") is None
    assert State(path).recall(Task("Make a plan.", "plan", options={"model": "opus"}), task.prompt) is None


def test_what_was_under_way_keeps_its_key(tmp_path):
    """A task that was cut off is asked for with the same key; one that failed, or is begun anew, with another."""
    task, path = Task("Make a plan.", "plan"), tmp_path / "state.json"
    key = State(path).begin(task, task.prompt)
    assert State(path).begin(task, task.prompt) == key
    anew = State(path).begin(task, task.prompt, anew=True)
    assert anew != key
    state = State(path)
    state.note(TaskResult("plan", Status.FAILED, error="no"))
    assert State(path).begin(task, task.prompt) not in (key, anew)


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON"])
def test_a_state_that_is_none_is_left_alone(tmp_path, text):
    """Somebody else's file is not overwritten."""
    with pytest.raises(CtlError):
        State(written(tmp_path, "state.json", text))
    assert (tmp_path / "state.json").read_text() == text
