"""What follows from the singular values of small matrices."""
