"""ccexecd: a Unix daemon that runs long-lived commands and never loses them."""

__version__ = "0.1.0"
