"""Closed-form queueing: the first guess at the number of prefill engines, before replay corrects it.

An M/M/N queue gives the probability of waiting (Erlang's C formula). Allen and Cunneen's approximation corrects the
mean wait for arrivals and service times that are more, or less, variable than exponential ones (A. O. Allen,
Probability, Statistics, and Queueing Theory). The wait of those who wait is taken as exponential.
"""

from __future__ import annotations

import math


def erlang_c(servers: int, offered: float) -> float:
    """Probability that an arrival has to wait in M/M/N with ``offered`` = arrival rate × mean service time (erlangs).

    1 when the load is not below the number of servers. Computed through Erlang's B by its recursion, which is stable
    for thousands of servers where the factorials are not.
    """
    if servers < 1:
        raise ValueError(f"servers must be at least 1, not {servers}")
    if offered < 0 or math.isnan(offered):
        raise ValueError(f"offered load must be a number that is not negative, not {offered}")
    if offered >= servers:
        return 1.0
    blocking = 1.0
    for count in range(1, servers + 1):
        blocking = offered * blocking / (count + offered * blocking)
    return blocking / (1.0 - offered / servers * (1.0 - blocking))


def mean_wait_seconds(
    servers: int, arrival_rate: float, mean_service_seconds: float, arrival_scv: float, service_scv: float
) -> float:
    """Mean wait in G/G/N after Allen and Cunneen; infinite when the load is not below the number of servers.

    ``arrival_scv`` and ``service_scv`` are squared coefficients of variation (variance / mean²) of the times between
    arrivals and of the service times; 1 for exponential ones.
    """
    offered = arrival_rate * mean_service_seconds
    if offered == 0:
        return 0.0
    if offered >= servers:
        return math.inf
    waiting = erlang_c(servers, offered)
    return (arrival_scv + service_scv) / 2 * waiting * mean_service_seconds / (servers - offered)


def probability_wait_over(seconds: float, servers: int, offered: float, mean_wait: float) -> float:
    """P(wait > ``seconds``), with an exponential tail for those who wait. 1 in an overloaded queue."""
    waiting = erlang_c(servers, offered)
    if seconds < 0:
        return 1.0
    if math.isinf(mean_wait):
        return 1.0
    if mean_wait == 0:
        return 0.0
    return min(1.0, waiting * math.exp(-seconds * waiting / mean_wait))
