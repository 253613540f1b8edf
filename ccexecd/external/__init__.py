"""The client's door: HTTP and WebSocket on one TCP port."""
