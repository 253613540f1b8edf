"""What each method does and how output is delivered, in the same way at the client's and the operator's door.

Begin with `dispatch` (from a message to its answer) and `methods` (one function for each method). `peer` is a connected
client as the methods see it. `delivery` turns log entries into notifications, and `writer` is the only code that writes
to a client's socket.
"""
