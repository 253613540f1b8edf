"""What is allowed and what happens next: pure decisions. No I/O, no Trio, no clock of its own."""
