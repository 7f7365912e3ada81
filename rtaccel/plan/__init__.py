"""From stages to something that runs: choose a kernel for each, pack the weights, allocate, bind."""
