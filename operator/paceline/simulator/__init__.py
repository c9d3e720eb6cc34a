"""A cluster in virtual time: the same policies that run in production, over any trace, in seconds.

Called by ``paceline simulate`` and by the benchmarks. What decides (sizing, queue order, role changes) comes from
:mod:`paceline.policy`; what is simulated here is only what would be hardware, Kubernetes and clients.
"""
