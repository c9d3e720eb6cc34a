"""The operator: keeps what a cluster runs true to its ModelDeployments.

kopf brings the edges and the process; everything that decides is in :mod:`paceline.policy`; this package reads, writes
and waits. Start it with ``paceline operator``.
"""
