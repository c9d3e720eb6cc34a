"""What every part of the resource is made of: the strict base model and bounded field types.

The other modules of this package import from here; nothing else does. Each type carries its bounds, because the API
server prices CEL rules by them and because a number without a bound is a bug waiting for a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

MAP_KEYS: Final = "x-kubernetes-list-map-keys"
LIST_TYPE: Final = "x-kubernetes-list-type"


class Model(BaseModel):
    """A part of the resource: camelCase outside, unknown fields refused, no silent conversion, immutable once read."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        serialize_by_alias=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=True,
    )


class Toggle(StrEnum):
    """A switch as a word, so that a third position can be added later without breaking anyone."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
Seconds = Annotated[int, Field(ge=1, le=604_800)]
Percent = Annotated[int, Field(ge=1, le=100)]
WeightPercent = Annotated[int, Field(ge=0, le=1_000)]
Tokens = Annotated[int, Field(ge=0, le=100_000_000)]
Priority = Annotated[int, Field(ge=-1_000, le=1_000)]
Replicas = Annotated[int, Field(ge=1, le=1_000)]
Gibibytes = Annotated[int, Field(ge=1, le=65_536)]

_DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_MODEL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$"
_LABEL_KEY: Final = r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
_LABEL_VALUE: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
_ENV_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_KEY_OF_DATA: Final = r"^[-._a-zA-Z0-9]+$"
_IMAGE: Final = r"^[^\s]+$"
ABSOLUTE_PATH: Final = r"^/.+$"

PATTERN_WORDS: Final = {
    _DNS_LABEL: "lower-case letters, digits and -, with a letter or digit at both ends",
    _DNS_SUBDOMAIN: "lower-case letters, digits, - and ., with a letter or digit at both ends",
    _MODEL_NAME: "letters, digits and ._/:@- after a letter or digit",
    _LABEL_KEY: "letters, digits, -, _ and ., with a letter or digit at both ends; before it perhaps a domain and /",
    _LABEL_VALUE: "letters, digits, -, _ and . without spaces, with a letter or digit at both ends",
    _ENV_NAME: "letters, digits and _, not with a digit in front",
    _KEY_OF_DATA: "letters, digits, -, _ and .",
    _IMAGE: "text without spaces",
    ABSOLUTE_PATH: "a path that begins with /",
}
"""What a pattern means, for messages: few read a regular expression as fast."""

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=_DNS_LABEL)]
DnsSubdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=_DNS_SUBDOMAIN)]
ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern=_MODEL_NAME)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE)]
EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern=_ENV_NAME)]
SecretDataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=_KEY_OF_DATA)]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=_IMAGE)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]
Text = Annotated[str, Field(max_length=1024)]

OpaqueObject = Annotated[
    Mapping[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
"""An object that passes through unread: its schema belongs to somebody else."""


class SecretKey(Model):
    """One key of a Secret in the namespace of the resource."""

    name: DnsSubdomain
    """Name of the Secret."""
    key: SecretDataKey
    """Key within the Secret."""


class PodTemplate(Model):
    """Changes to the pods that Paceline builds, merged into them the way Kubernetes merges patches: lists of named
    things (containers, volumes, environment variables, ports) by name, other lists replaced, null removes.
    """

    metadata: OpaqueObject | None = None
    """Labels and annotations, as in a Kubernetes PodTemplateSpec."""
    spec: OpaqueObject | None = None
    """A PodSpec, as far as it differs from what Paceline builds."""


def named_list(*keys: str, at_most: int) -> Any:
    """A list of named things: no two agree in all ``keys`` (camelCase), and server-side apply merges by them."""
    extra: dict[str, Any] = {LIST_TYPE: "map", MAP_KEYS: list(keys)}
    return Field(max_length=at_most, json_schema_extra=extra)


def plain_list(*, at_most: int) -> Any:
    """A list whose order matters and that is always replaced as a whole."""
    return Field(max_length=at_most, json_schema_extra={LIST_TYPE: "atomic"})
