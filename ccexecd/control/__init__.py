"""The operator's door: JSON-RPC lines on a Unix socket."""
