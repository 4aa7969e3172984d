"""What other libraries log, where a script of the user's own logs at INFO."""

from __future__ import annotations

import logging

from absl import logging as absl_logging


def orbax() -> None:
    """Drop what orbax logs below WARNING, a dozen lines a checkpoint, through absl's logger; nothing else changes.

    `absl.logging.get_absl_logger().removeFilter(quiet.is_wanted)` brings it back.
    """
    absl_logging.get_absl_logger().addFilter(is_wanted)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether the record is a warning at least, or not of orbax."""
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname
