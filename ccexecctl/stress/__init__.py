"""The self-test `ccexecctl stress`, run against a daemon that is up.

Begin with `cases` (what an agent is asked, and what is checked). `trial` runs one case, with one of the `agents`: a
real one, or `standin_agent`. `report` has the verdicts and figures.
"""
