"""What a call does and how output is delivered: served alike at the client's and the operator's door."""
