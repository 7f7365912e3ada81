"""What operators on small matrices share: how they are read and written, what is done to their rows, and their cases."""
