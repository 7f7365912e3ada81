"""What belongs to the process that runs: memory known by its address, threads, files, warnings at the line of a caller."""
