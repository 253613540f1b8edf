"""The client's door: HTTP and WebSocket on one TCP port.

Begin with `door`. `listener` accepts; `http` reads one bounded request head and decides by `auth` who may enter;
`upgrade` and `websocket` turn the connection into a WebSocket, which `connection` serves. Other paths are in `site`.
"""
