"""What `rtaccel inspect` is made of: cards, occupancy, kinds of instructions, and one file for each kind of kernel."""
