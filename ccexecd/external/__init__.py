"""The client's door: HTTP and WebSocket on one TCP port.

Begin with `door`. `listener` accepts; `http` reads requests, within bounds, and has `auth` decide who may enter;
`upgrade` and `websocket` turn a connection into a WebSocket, which `connection` serves. `site` says what is served.
"""
