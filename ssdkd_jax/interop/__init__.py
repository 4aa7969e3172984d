"""Networks in and out: saved folders, PyTorch files and their layouts, StableHLO."""
