"""What a user can mend: errors of one sentence, which names the thing, the value and the remedy.

A script ends with that sentence alone. Every other error, also a ValueError of a user's own
model, keeps its traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class InputError(ValueError):
    """What the user gave does not do."""


class MissingError(InputError, FileNotFoundError):
    """What the user named is not there."""


class NotFiniteError(InputError, FloatingPointError):
    """A run's numbers are no longer finite."""


@contextlib.contextmanager
def needs(extra: str = "") -> Iterator[None]:
    """Within it stand imports of packages without which the rest of the library runs.

    Args:
        extra: which installs them; '' where each is installed by its own name.

    Raises:
        MissingError: where one of them is not installed, with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        wanted = f"'ssdkd_jax[{extra}]'" if extra else package.replace("_", "-")
        raise MissingError(f"The package {package} is not installed; pip install {wanted}.") from error


class Faults:
    """Gathers the sentences of several checks, so that a user is told all of them at once.

    >>> faults = Faults()
    >>> with faults:
    ...     raise InputError("student.lr = -1 is not a number above 0.")
    >>> faults.sentences
    ['student.lr = -1 is not a number above 0.']
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> bool:
        """Take the sentences of an `InputError`; every other error goes on."""
        if isinstance(error, InputError):
            self.extend(str(error).split("\n"))
        return isinstance(error, InputError)

    def extend(self, sentences: Iterable[str]) -> None:
        """Add sentences; one that is there already is not told twice."""
        self.sentences = list(dict.fromkeys([*self.sentences, *sentences]))

    def report(self) -> None:
        """Raise an InputError with a line for each sentence, where there is any."""
        if self.sentences:
            raise InputError("\n".join(self.sentences))


def gathered(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returns; or one InputError with the sentences of all that failed.

    >>> gathered(lambda: 1, lambda: 2)
    [1, 2]
    """
    faults, results = Faults(), []
    for call in calls:
        with faults:
            results.append(call())
    faults.report()
    return results
