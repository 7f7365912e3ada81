"""What is done for a release: wheels.py."""
