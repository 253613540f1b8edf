"""What outlives the process: files in the state directory. Knows executions only by the values that it is handed."""
