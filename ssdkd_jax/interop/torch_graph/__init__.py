"""The graph of a PyTorch module, traced once, and the operators by which jax runs it."""
