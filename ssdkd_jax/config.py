"""Every setting of a run at its default, gathered from the records that hold them; configs state what differs.

`python -m ssdkd_jax.config` prints them all with their meanings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ssdkd_jax import (
    augment,
    build,
    closed_form,
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
from ssdkd_jax.errors import Faults
from ssdkd_jax.methods import beside

if TYPE_CHECKING:
    from ml_collections import ConfigDict

STATIONS = (
    *(build.Run, build.Data, build.MethodName, build.Schedule, teacher.Settings, teacher.Cache),
    *(student.Settings, closed_form.StartName, closed_form.StartImages, beside.Settings, hints.Settings),
    *(tasks.Name, *tasks.records()),
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


def check(config: Mapping[str, Any], names: Iterable[str] = ()) -> None:
    """Check a config as a whole, before anything is read or compiled.

    Args:
        names: dotted names of what somebody has set, on the command line or otherwise.

    Raises:
        InputError: a line for each field that is unknown, missing, of another type or out of its range, for fields
            that do not agree with each other or with the devices, and for each of `names` that the run does not read.
    """
    of_fields = {name: words for record in records() for name, words in settings.faults(record, config).items()}
    faults, sound = Faults(), default()
    values, known = settings.flat(config), settings.flat(sound)
    faults.extend(settings.unknown(name, known) for name in values if name not in known)
    faults.extend(of_fields.values())
    sound.update_from_flattened_dict({name: values[name] for name in known if name in values.keys() - of_fields})
    together = Faults()
    with together:
        build.choices(build.resolved(build.for_devices(sound)), classes=2, names=names)
    faults.extend(words for words in together.sentences if not any(name in words for name in of_fields))
    faults.report()


def described() -> str:
    """A line for each field: its dotted name, default, meaning and range."""
    return "\n".join(line for record in records() for line in settings.described(record))


if __name__ == "__main__":
    print(described())
