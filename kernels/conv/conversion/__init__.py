"""How the passes of a graph change convolutions: other forms, and branches that become one."""
