"""The machinery of a run: devices, hosts, dispatches, checkpoints, signals, and the loop over rounds."""
