"""A launch plan: what to start and with what environment, as a value. ``vllm_args`` and ``emulator_args`` make one, the
worker carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """One child process."""

    program: str
    """What messages call it."""
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Set whatever the pod's environment says."""
    default_env: Mapping[str, str] = field(default_factory=dict)
    """Set where the pod's environment says nothing: the user's own value wins."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Written by ``__main__`` before the start: absolute path -> content."""
    serves_api: bool = True
    """False on the followers of an engine that spans nodes."""

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Environment of the child, from the worker's own."""
        return {**self.default_env, **inherited, **self.env}
