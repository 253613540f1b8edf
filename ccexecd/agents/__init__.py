"""What agents say of themselves in their own output: pure functions of bytes.

Begin with `adapter`, the interface of all kinds of agents (`claude`, `codex`, `gemini`). `stream` cuts output into JSON
objects, an adapter turns these into `events`, `conversation` adds them up, and `verdict` judges how the run went.
"""
