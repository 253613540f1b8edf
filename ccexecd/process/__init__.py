"""The only code that starts or signals a process."""
