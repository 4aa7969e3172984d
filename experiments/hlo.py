"""What a compiled program launches, read off its HLO text."""

from __future__ import annotations

import re

FREE = {  # no kernel of their own
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("call", "while", "conditional", "opt-barrier", "iota"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([\w\-]+)\(")
CALLED = re.compile(r"(?:to_apply|body|calls)=%?([\w.\-]+)")


def launches(text: str) -> dict[str, int]:
    """{"kernels", "collectives"} that a run of the program launches; a loop's body is counted once.

    A fusion is one kernel. A sort, a library call or a copy counts as one too.
    """
    computations, entry = parsed(text)
    counted = {"kernels": 0, "collectives": 0}
    waiting = [entry]
    while waiting:
        for line in computations.get(waiting.pop(), ()):
            if not (found := INSTRUCTION.match(line)):
                continue
            opcode = found[1]
            if opcode in ("call", "while", "conditional", "async-start"):
                waiting += CALLED.findall(line)
            counted["kernels"] += opcode not in FREE and not opcode.endswith("-done")
            counted["collectives"] += opcode.removesuffix("-start") in COLLECTIVES
    return counted


def parsed(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+)[ .(]", line)) and " = " not in line:
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry
