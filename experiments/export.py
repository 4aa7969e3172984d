"""A saved model as a file for other tools; the same as `ssdkd export`."""

from ssdkd_jax.cli import export

if __name__ == "__main__":
    export.launch()
