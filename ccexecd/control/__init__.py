"""The operator's door: JSON-RPC lines on a Unix socket.

Begin with `connection`. `listener` makes the socket, `callers` says who may do what, and `methods` adds to the methods
of `service` those that only an operator may call.
"""
