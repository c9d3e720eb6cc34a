"""``spec.model``: which model is served, and where its weights are. Read by the builders and by the engine worker's
configuration.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import ABSOLUTE_PATH, DnsSubdomain, Model, ModelName, Path, SecretKey, named_list


class SourceType(StrEnum):
    """Where the weights are."""

    HUGGING_FACE = "HuggingFace"
    PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"
    LOCAL = "Local"


class HuggingFaceSource(Model):
    """A repository on the Hugging Face hub."""

    repository: ModelName | None = None
    """Repository, `owner/name`. Left out, it is `model.name`."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit. Left out, it is the default branch; name a commit to have every engine load the same
    weights.
    """
    token_secret: SecretKey | None = None
    """Access token, for gated or private repositories."""


class PersistentVolumeClaimSource(Model):
    """A folder on a volume that is mounted read-only into every engine."""

    claim_name: DnsSubdomain
    """Name of a PersistentVolumeClaim in the namespace of the resource. It must allow mounting by all engines at
    once.
    """
    path: Annotated[str, Field(max_length=1024, pattern=r"^[^/].*$")] | None = None
    """Folder of the model within the volume, without a leading slash. Left out, it is the volume's root."""


class LocalSource(Model):
    """A folder that the engine's container already has: part of its image, or mounted by `engine.podTemplate`."""

    path: Annotated[str, Field(max_length=1024, pattern=ABSOLUTE_PATH)]
    """Path of the folder as the engine sees it, from the root."""


class Source(Model):
    """Where the weights are: `type` names the one member that applies."""

    type: SourceType = SourceType.HUGGING_FACE
    """HuggingFace downloads at start, PersistentVolumeClaim mounts a volume, Local expects a folder in the container.
    """
    hugging_face: HuggingFaceSource | None = None
    """Details of a Hugging Face repository; may be left out."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """Volume and folder; needed with type PersistentVolumeClaim."""
    local: LocalSource | None = None
    """Folder in the container; needed with type Local."""


class LoraAdapter(Model):
    """A LoRA adapter that every engine loads at start. Clients ask for it by its name."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$")]
    """Name that clients use; unique among adapters, and not the model's own."""
    path: Path
    """Folder of the adapter as the engine sees it, or a Hugging Face repository."""


class ModelSpec(Model):
    """Which model is served, and under which name."""

    name: ModelName
    """Name of the model, for example `Qwen/Qwen3-32B`. It can't be changed: another model is another ModelDeployment.
    """
    served_name: ModelName | None = None
    """Name that clients use in requests. Left out, it is `model.name`."""
    source: Source = Source()
    """Where the weights are."""
    max_model_len: Annotated[int, Field(ge=16, le=100_000_000)] | None = None
    """Longest prompt plus output, in tokens. Left out, it is what the model's own configuration says."""
    lora_adapters: Annotated[tuple[LoraAdapter, ...], named_list("name", at_most=64)] = ()
    """LoRA adapters that every engine loads at start."""

    @property
    def client_name(self) -> str:
        """The name that clients use."""
        return self.served_name or self.name
