"""A PyTorch checkpoint as a saved model of this package; the same as `ssdkd import`."""

from ssdkd_jax.cli import import_torch

if __name__ == "__main__":
    import_torch.launch()
