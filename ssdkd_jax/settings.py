"""Settings: frozen records whose fields carry type, default, range and meaning, once.

A record stands beside the code that uses it and names the section of the config that its fields fill. A
method's settings are a record of such records. `Reader` reads them, and knows afterwards which fields of
the config somebody has read: what nobody reads does nothing, and is refused where a user sets it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

from ml_collections import ConfigDict, config_dict

from ssdkd_jax.errors import InputError

Record = TypeVar("Record")


def setting(
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a section.

    Args:
        default: its value where nobody sets it.
        meaning: one line, with the unit.
        least, most: bounds that are allowed themselves.
        above, below: bounds that are not.
        choices: the allowed names.
    """
    bounds = {"least": least, "most": most, "above": above, "below": below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata = {"meaning": meaning, "bounds": bounds, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(setting,))
def section(name: str) -> Any:
    """Class decorator: a frozen record of fields that stand in the config under `name`; '' for its top level."""

    def decorate(cls: type) -> type:
        cls.SECTION = name
        return dataclasses.dataclass(frozen=True)(cls)

    return decorate


def fields(record: type) -> dict[str, dataclasses.Field]:
    """The fields of a section's record by their dotted names in the config."""
    prefix = f"{record.SECTION}." if record.SECTION else ""
    return {prefix + field.name: field for field in dataclasses.fields(record)}


def sections(record: type) -> Iterator[type]:
    """The records of sections that a record consists of; those that a `from_config` reads are not among them."""
    if hasattr(record, "SECTION"):
        yield record
    elif not hasattr(record, "from_config"):
        for kind in typing.get_type_hints(record).values():
            yield from sections(kind)


def described(record: type) -> list[str]:
    """A line for each field: its dotted name, default, meaning and range."""
    lines = []
    for name, field in fields(record).items():
        bounds = [f"{word} {bound:g}" for word, bound in field.metadata["bounds"].items()]
        limits = " | ".join(field.metadata["choices"]) or ", ".join(bounds)
        lines.append(f"{name} = {field.default!r}: {field.metadata['meaning']}" + (f" ({limits})" if limits else ""))
    return lines


class Reader:
    """Reads records from a config.

    Attributes:
        config: what is read.
        read_fields: dotted names of those read so far.
    """

    def __init__(self, config: ConfigDict):
        self.config, self.read_fields = config, set()

    def __call__(self, record: type[Record]) -> Record:
        """The record as the config fills it.

        Args:
            record: made by `section`; or a class with a `from_config(reader)`; or a dataclass of such.
        """
        if hasattr(record, "from_config"):
            return record.from_config(self)
        if not hasattr(record, "SECTION"):
            return record(**{name: self(kind) for name, kind in typing.get_type_hints(record).items()})
        self.read_fields |= fields(record).keys()
        values = self.config[record.SECTION] if record.SECTION else self.config
        return record(**{field.name: values[field.name] for field in dataclasses.fields(record)})

    def refuse_unread(self, names: Iterable[str]) -> None:
        """Raise ValueError, which names each of the dotted `names` that no record has read."""
        unread = sorted(set(names) - self.read_fields)
        if unread:
            method, sampler, task = (self.config[part].name for part in ("method", "sampler", "task"))
            raise InputError(
                f"{', '.join(unread)} would do nothing in this run (method '{method}', sampler '{sampler}', "
                f"task '{task}'); leave it out."
            )


def defaults(records: Iterable[type]) -> ConfigDict:
    """A config of all fields of these records at their defaults; locked, so that no field can be added.

    Raises:
        ValueError: where two records have the same field.
    """
    values: dict[str, Any] = {}
    for record in records:
        hints = typing.get_type_hints(record)
        part = values.setdefault(record.SECTION, {}) if record.SECTION else values
        for field in dataclasses.fields(record):
            if field.name in part:
                raise ValueError(f"Two records hold the setting '{record.SECTION}.{field.name}'; leave one out.")
            part[field.name] = _placed(field.default, hints[field.name])
    return ConfigDict(values).lock()


def _placed(default: Any, kind: Any) -> Any:
    """A value of the config; where None is allowed, one that remembers its type."""
    if not isinstance(kind, types.UnionType):
        return default
    (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return config_dict.FieldReference(default, field_type=kind)


def chosen(table: Mapping[str, Any], field: str, name: str) -> Any:
    """`table[name]`.

    Args:
        field: dotted name of the setting that holds `name`.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0)[0]
        raise InputError(f"{field} = '{name}' is not one of {', '.join(table)}; did you mean '{near}'?")
    return table[name]
