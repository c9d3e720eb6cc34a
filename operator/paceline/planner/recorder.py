"""Keeps what was observed and decided as JSON lines, so that it can be replayed: the same observations give the same
decisions, and other settings give others.

One file a deployment. The first line of each run says with which settings and engines it was decided.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from paceline.errors import ConfigError
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.observation import Observation
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.unreadable import UNREADABLE

MAX_FILE_BYTES: Final = 1024 * 1024 * 1024
"""A recording ends there: a forgotten one must not fill a disk."""
MAX_FILES: Final = 256
"""Open at the same time; beyond, the one that was written to longest ago is closed."""
SUFFIX: Final = ".observations.jsonl"

log = logging.getLogger(__name__)


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun", tag_field="line", rename="camel"):
    """With what was decided from here on."""

    deployment: str
    settings: dict[str, Any]
    models: EngineModels | None
    """How fast engines were taken to be; None: nobody knew. Whole: a guess, or a calibration, has no name to find."""


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag="step", tag_field="line", rename="camel"):
    """One step."""

    observation: Observation
    decision: Decision


Line = Begun | Taken


class Recorder:
    """Writes into ``folder``. A disk that fails ends the recording, never the planning."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--record: can't use {folder}: {error.strerror}.") from None
        self._folder = folder
        self._files: OrderedDict[tuple[str, str], BinaryIO] = OrderedDict()
        self._settings: dict[tuple[str, str], ScalingSettings] = {}
        self._failed = False

    def write(self, key: tuple[str, str], planner: DeploymentPlanner, step: Step) -> None:
        """Add one step of the deployment ``key``."""
        if self._failed:
            return
        try:
            file = self._file(key)
            if file.tell() > MAX_FILE_BYTES:
                return
            if self._settings.get(key) is not planner.settings:
                self._settings[key] = planner.settings
                file.write(msgspec.json.encode(_begun(key, planner)) + b"\n")
            taken = Taken(observation=step.observation, decision=step.decision)
            file.write(msgspec.json.encode(taken) + b"\n")
            file.flush()
        except OSError as error:
            self._failed = True
            log.warning("the recording ends: %s", error.strerror)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, key: tuple[str, str]) -> BinaryIO:
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = (self._folder / f"{key[0]}.{key[1]}{SUFFIX}").open("ab")
            self._settings.pop(key, None)
            while len(self._files) > MAX_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(key)
        return file


def read_recording(path: Path) -> list[Line]:
    """All lines of a recording. Raises ConfigError, which names the line that can't be read."""
    decoder = msgspec.json.Decoder(Line)
    lines: list[Line] = []
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                lines.append(decoder.decode(line))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}.") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path}, line {number}: not a line of a recording: {error}") from None
    return lines


def settings_of(begun: Begun) -> ScalingSettings:
    """The settings that a recording was made with."""
    return msgspec.convert(begun.settings, ScalingSettings)


def _begun(key: tuple[str, str], planner: DeploymentPlanner) -> Begun:
    return Begun(deployment="/".join(key), settings=msgspec.to_builtins(planner.settings), models=planner.models)
