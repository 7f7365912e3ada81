"""What the machine does to a measurement: its record, the memory that is held, what disturbed a run, and its roofline."""
