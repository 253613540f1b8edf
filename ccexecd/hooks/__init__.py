"""What the operator has done besides, at the events of an execution: reading what is wanted, calling it, heeding it."""
