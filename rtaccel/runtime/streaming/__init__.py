"""What a stream is made of: the program of a time step, and a front before it."""
