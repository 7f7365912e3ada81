"""What `rtaccel bench` is made of: what is measured (suite.py), and the comparison with another git ref."""
