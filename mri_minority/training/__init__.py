"""Training: the loop as a generator, the moving average of the weights, checkpoints."""
