from __future__ import annotations

import json

import pytest

from paceline.api import wire
from paceline.errors import ConfigError

ENGINE = wire.EngineEndpoint(
    name="engine-0", host="10.0.0.1", port=8000, role=wire.Role.PREFILL, state=wire.EngineState.READY, start_id="a"
)


def refusal(document: str) -> str:
    with pytest.raises(ConfigError) as caught:
        wire.decode(wire.Fleet, document, source="fleet.json")
    return str(caught.value)


def test_a_document_survives_the_wire() -> None:
    fleet = wire.Fleet(version=7, engines=(ENGINE,))
    assert wire.decode(wire.Fleet, wire.encode(fleet), source="test") == fleet


def test_equal_documents_are_equal_bytes() -> None:
    again = wire.decode(wire.Fleet, wire.encode(wire.Fleet(version=7, engines=(ENGINE,))), source="test")
    assert wire.encode(again) == wire.encode(wire.Fleet(version=7, engines=(ENGINE,)))


def test_names_on_the_wire_are_camel_case() -> None:
    assert set(json.loads(wire.encode(ENGINE))) >= {"startId", "kvEvents", "kvReplay"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "fleet.json is not a valid Fleet"),
        ("[]", "Expected `object`"),
        ('{"version": 1, "engine": []}', "unknown field `engine`"),
        ('{"version": -1}', "`$.version`"),
        ('{"version": 1.5}', "`$.version`"),
        ('{"engines": []}', "missing required field `version`"),
        ('{"version": 1, "engines": [{"name": 5}]}', "`$.engines[0].name`"),
        ("\ud800", "fleet.json is not a valid Fleet"),
    ],
)
def test_a_malformed_document_is_refused_with_the_field(document: str, words: str) -> None:
    assert words in refusal(document)


def test_a_port_is_within_its_range() -> None:
    document = wire.encode(ENGINE).replace(b"8000", b"80000")
    with pytest.raises(ConfigError, match=r"\$\.port"):
        wire.decode(wire.EngineEndpoint, document, source="test")
