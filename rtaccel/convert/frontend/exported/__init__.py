"""What a model is exported to, and what it is asked first."""
