"""`python -m ssdkd_jax` is the console command `ssdkd`."""

from ssdkd_jax import cli

if __name__ == "__main__":
    cli.main()
