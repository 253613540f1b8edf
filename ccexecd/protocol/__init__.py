"""What is on the wire: pure data and text, shared by the daemon and its clients. No I/O, no Trio.

Begin with `messages` (the params of each method) and `codec` (bytes to checked values, the trust boundary). `jsonrpc`
has the envelope, `errors` the codes. `errors` and `framing` need the standard library only, for ccexecctl.
"""
