"""What is on the wire: pure data and text, shared by the daemon and its clients. No I/O, no Trio."""
