"""ccexecctl: the command line by which people and systemd manage ccexecd."""
