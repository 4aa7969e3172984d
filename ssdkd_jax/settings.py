"""Settings: frozen records whose fields carry type, default, range and meaning, once.

A record stands beside the code that uses it and names the section of the config that its fields fill. A
method's settings are a record of such records. A record may have a method `faults()`, sentences about its
fields that do not agree. `Reader` reads records, and knows afterwards which fields of the config somebody has
read: what nobody reads does nothing, and is refused where a user sets it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from ssdkd_jax.errors import Faults, InputError, needs

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Record = TypeVar("Record")
Section = Any  # a class made by `section`, with an attribute SECTION
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
WORDS = {"least": "of at least", "most": "of at most", "above": "above", "below": "below"}
WITHIN = {"least": operator.ge, "most": operator.le, "above": operator.gt, "below": operator.lt}


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

    def decorate(cls: Section) -> Section:
        cls.SECTION = name
        return dataclasses.dataclass(frozen=True)(cls)

    return decorate


def fields(record: Section) -> dict[str, dataclasses.Field]:
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
    """A line for each field: its dotted name, default, meaning, type and range."""
    hints = typing.get_type_hints(record)
    return [
        f"{name} = {field.default!r}: {field.metadata['meaning']} ({wanted(field, hints[field.name])})"
        for name, field in fields(record).items()
    ]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, of all fields of a config."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if hasattr(value, "items") else {prefix + name: value}
    return found


def wanted(field: dataclasses.Field, kind: Any) -> str:
    """What a field takes, in words: 'a whole number of at least 1'.

    Args:
        kind: its type.
    """
    bare, optional = _parts(kind)
    bounds = " and ".join(f"{WORDS[name]} {bound:g}" for name, bound in field.metadata["bounds"].items())
    if field.metadata["choices"]:
        words = f"one of {', '.join(field.metadata['choices'])}"
    else:
        words = " ".join(filter(None, (KINDS[bare], bounds)))
    return f"{words}, or None" if optional else words


def faults(record: Section, config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted field -> a sentence, for each field of a section whose value is missing, or not of its type and range."""
    part: Any = config.get(record.SECTION) if record.SECTION else config
    if not hasattr(part, "get"):
        return {record.SECTION: f"{record.SECTION} = {part!r} is no section; start from config.default()."}
    hints, found = typing.get_type_hints(record), dict[str, str]()
    for name, field in fields(record).items():
        if field.name not in part:
            found[name] = f"{name} is missing; set it to {wanted(field, hints[field.name])}."
        elif not allowed(field, hints[field.name], part[field.name]):
            found[name] = fault(name, field, record, part[field.name])
    return found


def fault(name: str, field: dataclasses.Field, record: type, value: Any) -> str:
    """A sentence about a value that a field of a record does not take."""
    choices = field.metadata["choices"]
    remedy = nearest(value, choices) if choices else "give such a value."
    return f"{name} = {value!r} is not {wanted(field, typing.get_type_hints(record)[field.name])}; {remedy}"


def unknown(name: str, known: Iterable[str]) -> str:
    """A sentence about a field that no record holds."""
    return f"The config has no field '{name}'; {nearest(name, known)}"


def allowed(field: dataclasses.Field, kind: Any, value: Any) -> bool:
    """Whether a value is of the field's type and range; numbers are finite."""
    bare, optional = _parts(kind)
    if value is None:
        return optional
    if bare in (bool, str) or isinstance(value, bool):  # which Python takes for a number
        fits = type(value) is bare
    else:
        fits = isinstance(value, numbers.Integral if bare is int else numbers.Real) and math.isfinite(value)
    within = fits and all(WITHIN[name](value, bound) for name, bound in field.metadata["bounds"].items())
    return within and (not field.metadata["choices"] or value in field.metadata["choices"])


def nearest(name: object, known: Iterable[str]) -> str:
    """A question about the known name that is nearest to `name`."""
    return f"did you mean '{difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]}'?"


def _parts(kind: Any) -> tuple[type, bool]:
    """The type without None, and whether None is allowed too."""
    if not isinstance(kind, types.UnionType):
        return kind, False
    (bare,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return bare, True


class Reader:
    """Reads records from a config.

    Attributes:
        config: what is read.
        read_fields: dotted names of those read so far.
        faults: what is wrong with the records read so far.
    """

    def __init__(self, config: ConfigDict):
        self.config, self.read_fields, self.faults = config, set[str](), Faults()

    def __call__(self, record: type[Record]) -> Record:
        """The record as the config fills it.

        Args:
            record: made by `section`; or a class with a `from_config(reader)`; or a dataclass of such.
        """
        if from_config := getattr(record, "from_config", None):
            return from_config(self)
        if (name := getattr(record, "SECTION", None)) is not None:
            self.read_fields |= fields(record).keys()
            found = faults(record, self.config)
            wrong = bool(found)
            self.faults.extend(found.values())
            values = self.config[name] if name else self.config
            made = record(**{field.name: values.get(field.name) for field in fields(record).values()})
        else:
            before = len(self.faults.sentences)
            made = record(**{name: self(kind) for name, kind in typing.get_type_hints(record).items()})
            wrong = len(self.faults.sentences) > before
        if hasattr(made, "faults") and not wrong:
            self.faults.extend(made.faults())
        return made

    def refuse_unread(self, names: Iterable[str]) -> None:
        """Add a fault that names each of the dotted `names` that no record has read."""
        unread = sorted(set(names) - self.read_fields)
        if unread:
            method, sampler, task = (self.config[part].name for part in ("method", "sampler", "task"))
            self.faults.extend(
                [
                    f"{', '.join(unread)} would do nothing in this run (method '{method}', sampler '{sampler}', "
                    f"task '{task}'); leave it out."
                ]
            )


def defaults(records: Iterable[Section]) -> ConfigDict:
    """A config of all fields of these records at their defaults; locked, so that no field can be added.

    Raises:
        ValueError: where two records have the same field.
        MissingError: without ml-collections.
    """
    with needs():
        from ml_collections import ConfigDict, FieldReference
    values: dict[str, Any] = {}
    for record in records:
        hints = typing.get_type_hints(record)
        part = values.setdefault(record.SECTION, {}) if record.SECTION else values
        for field in dataclasses.fields(record):
            if field.name in part:
                raise ValueError(f"Two records hold the setting '{record.SECTION}.{field.name}'; leave one out.")
            kind, optional = _parts(hints[field.name])  # where None is allowed, the config remembers the type
            part[field.name] = FieldReference(field.default, field_type=kind) if optional else field.default
    return ConfigDict(values).lock()


def chosen(table: Mapping[str, Any], field: str, name: str) -> Any:
    """`table[name]`.

    Args:
        field: dotted name of the setting that holds `name`.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    if name not in table:
        raise InputError(f"{field} = '{name}' is not one of {', '.join(table)}; {nearest(name, table)}")
    return table[name]
