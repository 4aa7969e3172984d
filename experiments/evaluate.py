"""A saved model on real images; the same as `ssdkd evaluate`."""

from ssdkd_jax.engine import environment

environment.prepare()

from ssdkd_jax.cli import evaluate

if __name__ == "__main__":
    evaluate.launch()
