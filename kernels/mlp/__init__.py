"""A whole multilayer perceptron in int8 as one kernel, with its weights in the registers of one multiprocessor."""
