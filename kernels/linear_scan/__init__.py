"""Linear recurrences along time: y_t = a_t * y_(t-1) + b_t."""
