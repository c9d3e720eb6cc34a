"""Every error that Paceline raises on purpose.

::

    PacelineError                  root: the message is meant for the user, names the field and the fix
    ├── SpecError                  a ModelDeployment (or another input file) is not valid
    ├── ConfigError                flags, environment or a wire document are not valid
    ├── ConfigurationImpossible    valid by itself, but this machine can't do it (need and have are named)
    ├── TraceError                 a trace file can't be read at all (bad rows are counted, not raised)
    ├── EngineError                an engine did not start, died, or answered garbage
    ├── LocalRuntimeError          the embedded cluster can't go on (port in use, a child that won't start)
    └── ClusterError               a Kubernetes API server refuses a request or can't be reached

The command line prints the message of a ``PacelineError`` and exits with its ``exit_code``; anything else is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable


class PacelineError(Exception):
    """Root of the tree. ``str(error)`` is one or more whole sentences for the user."""

    exit_code = 1


class FieldProblem:
    """One invalid field: where it is, what is wrong, and what is allowed."""

    __slots__ = ("message", "path", "value")

    def __init__(self, path: str, message: str, value: str | None = None) -> None:
        self.path = path
        self.message = message
        self.value = value

    def __str__(self) -> str:
        found = "" if self.value is None else f" (found {self.value})"
        return f"{self.path}: {self.message}{found}"


class SpecError(PacelineError):
    """An input file is not valid. ``problems`` holds one entry a field; ``source`` says which file."""

    exit_code = 2

    def __init__(self, source: str, problems: Iterable[FieldProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source} is not valid:\n{lines}")


class ConfigError(PacelineError):
    """Flags, environment variables or a wire document are not valid."""

    exit_code = 2


class ConfigurationImpossible(PacelineError):
    """The configuration is valid, but this machine can't do it: names field, need and have."""

    exit_code = 3

    def __init__(self, field: str, need: str, have: str) -> None:
        self.field = field
        self.need = need
        self.have = have
        super().__init__(f"{field}: needs {need}, but this machine has {have}.")


class TraceError(PacelineError):
    """A trace file can't be read at all."""

    exit_code = 2


class EngineError(PacelineError):
    """An engine did not start, died, or answered garbage."""

    exit_code = 4


class HardwareError(EngineError):
    """An engine ended because its accelerator, or what joins accelerators, failed."""

    exit_code = 7


class LocalRuntimeError(PacelineError):
    """The embedded cluster can't start or can't go on."""

    exit_code = 5


class ClusterError(PacelineError):
    """A Kubernetes API server refuses a request or can't be reached. The controller has one subclass a cause."""

    exit_code = 6
