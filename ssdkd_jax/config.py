"""Every setting of a run at its default, gathered from the records that hold them; configs state what differs.

`python -m ssdkd_jax.config` prints them all with their meanings.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from ssdkd_jax import (
    augment,
    build,
    generator,
    hints,
    inversion,
    methods,
    modulation,
    replay_buffer,
    sampler,
    settings,
    smoothing,
    student,
    tasks,
    teacher,
    terms,
)

STATIONS = (
    *(build.Run, build.Data, build.MethodName, build.Schedule, teacher.Settings, teacher.Cache),
    *(student.Settings, hints.Settings, tasks.Name, *tasks.records()),
    *(inversion.Settings, inversion.Latents, terms.Weights, smoothing.Settings),
    *(generator.Settings, generator.StartName, generator.MetaStart),
    *(modulation.Settings, replay_buffer.Size, replay_buffer.Eviction),
    *(*sampler.records(), augment.Settings, augment.Mixup),
)


def records() -> tuple[type, ...]:
    """The records of all stations, and those that the methods add; each once."""
    of_methods = (record for file in methods.modules().values() for record in settings.sections(file.Settings))
    return tuple(dict.fromkeys((*STATIONS, *of_methods)))


def default() -> ConfigDict:
    """The configuration that every file in configs/ starts from; locked, so that no field can be added."""
    return settings.defaults(records())


def described() -> str:
    """A line for each field: its dotted name, default, meaning and range."""
    return "\n".join(line for record in records() for line in settings.described(record))


if __name__ == "__main__":
    print(described())
