"""A self-test against a living daemon: what is asked of an agent, what is checked, what is reported."""
