"""``spec.routing``: the router's own pods, where it places requests, and what it refuses."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import (
    DnsSubdomain,
    Image,
    Milliseconds,
    Model,
    PodTemplate,
    Seconds,
    Toggle,
    Tokens,
    WeightPercent,
)


class MediaPolicy(StrEnum):
    """Which media engines may take from a conversation."""

    REFUSE = "Refuse"
    DATA_URLS = "DataUrls"
    ANY = "Any"


class ServiceType(StrEnum):
    """How the router's Service is published."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class SplitMode(StrEnum):
    """Whether long cold prompts are kept apart from follow-up turns."""

    DISABLED = "Disabled"
    AUTO = "Auto"
    FIXED = "Fixed"


class QueueOrder(StrEnum):
    """Which waiting request goes next."""

    DEADLINE = "Deadline"
    ARRIVAL = "Arrival"


class Late(StrEnum):
    """What becomes of requests that can't meet their TTFT any more."""

    SERVE = "Serve"
    LIMIT = "Limit"
    REFUSE = "Refuse"


class WatchMode(StrEnum):
    """What follows when an engine stands out."""

    OFF = "Off"
    WATCH = "Watch"
    ACT = "Act"


class Placement(Model):
    """What counts when an engine is chosen. 100 is the full weight, 0 leaves a term out."""

    load_weight_percent: WeightPercent = 100
    """Weight of the work that an engine has queued."""
    cache_weight_percent: WeightPercent = 100
    """Weight of the prompt tokens that an engine holds already."""
    host_hit_percent: Annotated[int, Field(ge=0, le=100)] = 80
    """Worth of a block in host memory against one on the accelerator."""
    disk_hit_percent: Annotated[int, Field(ge=0, le=100)] = 40
    """Worth of a block on the node's disk against one on the accelerator."""
    shared_hit_percent: Annotated[int, Field(ge=0, le=100)] = 40
    """Worth of a block in the shared tier against one on the accelerator."""


class ColdWarmSplit(Model):
    """Whether prompts with much uncached work have prefill engines of their own, so that follow-up turns never wait
    behind them.
    """

    mode: SplitMode = SplitMode.DISABLED
    """Auto lets the planner choose the threshold, Fixed takes `coldTokens`."""
    cold_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Uncached tokens from which a prompt is cold; needed with mode Fixed, and only there."""


class Sessions(Model):
    """Follow-up turns of a conversation."""

    affinity: Toggle = Toggle.ENABLED
    """Enabled sends a follow-up turn to the engine that has its prefix, unless that engine is overloaded."""
    ttl_seconds: Seconds = 1800
    """How long a session is remembered after its last request."""


class Queue(Model):
    """The order of requests that wait in the router."""

    order: QueueOrder = QueueOrder.DEADLINE
    """Deadline serves requests that can still meet their TTFT first, by earliest deadline; Arrival serves in order of
    arrival.
    """
    max_late_seconds: Seconds = 60
    """Longest time that a request which missed its TTFT is put behind others. At most three quarters of
    `maxQueueSeconds` count.
    """


class Admission(Model):
    """What the router accepts before it answers 429 or 413."""

    max_queued_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Most requests that wait in one router."""
    max_queue_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Longest time that a request waits for an engine."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] = 33_554_432
    """Largest body of a request."""
    max_running_per_engine: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Most requests that one engine works on at a time."""
    max_queued_mebibytes: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """Most memory of the requests that wait in one router."""
    late: Late = Late.LIMIT
    """What becomes of requests that can't meet their TTFT any more. Serve answers them all; Limit, when more comes than
    can be served for longer than two minutes, only so many as take a twentieth of the capacity; Refuse none. Who would
    wait for more than twice `maxQueueSeconds` is refused at once in any case.
    """
    hold_for_itl: Toggle = Toggle.ENABLED
    """Enabled lets a request wait while one more stream would make every decode engine miss the ITL objective; Disabled
    adds it to an engine at once. Only with roles separated and the queue in the order of deadlines.
    """


class Timeouts(Model):
    """How long the router waits for an engine."""

    connect_milliseconds: Annotated[int, Field(ge=1, le=60_000)] = 2000
    """Longest time to connect."""
    first_byte_milliseconds: Milliseconds = 600_000
    """Longest time to the first byte of an answer."""
    idle_milliseconds: Milliseconds = 120_000
    """Longest pause within an answer."""
    answer_seconds: Seconds = 14_400
    """Longest life of an answer, from the arrival of its request to its last byte."""


class RouterTls(Model):
    """The routers' API over HTTPS."""

    certificate_secret: DnsSubdomain
    """Secret of type `kubernetes.io/tls` with the routers' certificate. A new one is taken into use while they run."""
    client_ca_secret: DnsSubdomain | None = None
    """Secret with an authority in `ca.crt`. Given, clients need a certificate of it."""


class OutputHealth(Model):
    """Whether routers compare engines by what they say and how fast, and take those that stand out out of rotation."""

    mode: WatchMode = WatchMode.ACT
    """What engines say. Act gives an engine that stands out no new work for a while, Watch only tells, Off does not
    look.
    """
    slow_engines: WatchMode = WatchMode.ACT
    """The same for engines that are far slower than their siblings at the same load."""
    max_out_percent: Annotated[int, Field(ge=1, le=100)] = 25
    """Largest share of all engines that is without work for it at a time. One always may be, while another is ready
    in its role.
    """
    hold_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long an engine is without work the first time; each further time twice as long, up to 16 times."""
    keep_samples: Annotated[int, Field(ge=0, le=100)] = 0
    """Ends of suspicious answers that each router keeps for a person to read on its admin port. 0 keeps none."""


class Hedging(Model):
    """A second engine for requests that the first one leaves without an answer for long."""

    after_milliseconds: Milliseconds
    """How long the router waits for the first byte of an answer, or for a prompt that is computed apart, before it asks
    a second engine for the same; at least twice what the engine model expects. Take the TTFT that 95 of 100 requests
    have, or more.
    """
    max_percent: Annotated[int, Field(ge=1, le=50)] = 5
    """Most second requests, of all."""


class Routing(Model):
    """The router's own pods, where it places requests, and what it refuses."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """Routers."""
    image: Image | None = None
    """Image of the router. Left out, it is the one that goes with the operator's version."""
    service_type: ServiceType = ServiceType.CLUSTER_IP
    """How the router's Service is published."""
    placement: Placement = Placement()
    """What counts when an engine is chosen."""
    cold_warm_split: ColdWarmSplit = ColdWarmSplit()
    """Whether cold prompts have prefill engines of their own."""
    local_prefill_tokens: Tokens | None = None
    """Prompts with at most this many uncached tokens are computed by the decode engine itself. Left out, the engine
    model decides.
    """
    sessions: Sessions = Sessions()
    """Follow-up turns of a conversation."""
    queue: Queue = Queue()
    """The order of requests that wait."""
    admission: Admission = Admission()
    """What is accepted."""
    timeouts: Timeouts = Timeouts()
    """How long the router waits for an engine."""
    tls: RouterTls | None = None
    """The routers' API over HTTPS, on port 443 of their Service. Left out, it is plain HTTP on port 80."""
    media: MediaPolicy = MediaPolicy.DATA_URLS
    """Media in conversations: Refuse takes none that has a URL, DataUrls those that are inline in the request, Any also
    those that engines then fetch from wherever the client says; name the domains with `--allowed-media-domains` in
    `engine.extraArgs`.
    """
    output_health: OutputHealth = OutputHealth()
    """What follows when an engine stands out among its siblings."""
    hedging: Hedging | None = None
    """A second engine where the first is late. Left out, one engine is asked at a time."""
    pod_template: PodTemplate | None = None
    """Changes to the router's pods. Its container is called `router`."""
