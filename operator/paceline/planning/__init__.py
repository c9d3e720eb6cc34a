"""From a trace and an objective to a manifest: which layout, mode and pool sizes are the cheapest that will do.

``paceline plan`` and ``paceline calibrate`` are its callers. What is searched is simulated with the code that decides
in production.
"""
