"""What `rtaccel demo` is made of: data, training, contestants, verdict, and how it is shown."""
