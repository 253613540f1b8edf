"""The params of the methods about the ledger of prompts.

Owns their names, types and bounds, as `messages` does for all others.
"""

from typing import Literal

import attrs

from ccexecd.protocol.codec import Count, StructureError, Text

MAX_NAME = 100
"""Characters of a prompt's name."""

MAX_REASON = 1024
"""Characters of what was changed, and why."""

MAX_PROMPT = 1 << 18
"""Characters of a prompt: with all of its escapes, it fits into a message of any client."""


@attrs.frozen
class PromptsShow:
    """`prompts_show`, `prompts_graduate`, `prompts_history`: a prompt; version null = in production, or the newest."""

    name: Text
    version: Count | None = None


@attrs.frozen
class PromptsRecord:
    """`prompts_record`: a new version; `kind` tasks is a list of tasks."""

    name: Text
    text: Text
    why: Text
    kind: Literal["prompt", "tasks"] = "prompt"

    def __attrs_post_init__(self) -> None:
        for field, least, most in (("name", 1, MAX_NAME), ("text", 1, MAX_PROMPT), ("why", 1, MAX_REASON)):
            if not least <= len(getattr(self, field).strip()) <= most:
                raise StructureError([{"path": f"$.{field}", "error": f"must have {least} to {most} characters"}])
