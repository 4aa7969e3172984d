"""A student from a teacher, without its data; the same as `ssdkd distill`."""

from ssdkd_jax.engine import environment

environment.prepare()

from ssdkd_jax.cli import distill

if __name__ == "__main__":
    distill.launch()
