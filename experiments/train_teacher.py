"""Train the teacher of a config on its real images.

    python experiments/train_teacher.py --config=configs/digits.py --workdir=runs/digits

The teacher lands in WORKDIR/teacher, where distill.py finds it; started again, it goes on.
Stopped by SIGTERM it saves, and exits with code 75.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

from ssdkd_jax.engine import preemption

preemption.install()

from pathlib import Path

from ssdkd_jax import build, data
from ssdkd_jax.cli import launch
from ssdkd_jax.run import teacher


def main() -> None:
    """Train, and print the score on the real test images."""
    config, workdir = build.for_devices(launch.config()), Path(launch.WORKDIR.value)
    dataset = data.load(config.data.name, config.data.folder)
    with launch.claimed(workdir):
        score = teacher.train(config, dataset, workdir, launch.stop)
    print(f"{config.teacher.model}: {100 * score:.2f} % of {len(dataset.test_images)} test images")


if __name__ == "__main__":
    launch.launch(main)
