"""What belongs to the process that runs: memory that others know by its address, threads, warnings at the line of a caller."""
