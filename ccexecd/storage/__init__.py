"""What outlives the process: output, and what is known of executions."""
