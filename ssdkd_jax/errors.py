"""What a user can mend: errors of one sentence, which names the thing, the value and the remedy.

A script ends such an error with that sentence alone. Every other error, also a ValueError of a user's own
model, keeps its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave does not do."""


class MissingError(InputError, FileNotFoundError):
    """What the user named is not there."""


class NotFiniteError(InputError, FloatingPointError):
    """A run's numbers are no longer finite."""
