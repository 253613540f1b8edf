"""What outlives the process: output, what is known of executions, and the audit: files in the state directory."""
