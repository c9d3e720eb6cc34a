"""The OpenAI-compatible front door: places each request on engines, prefills remotely, and streams the answer back.

One process, one event loop. Requests go ``routes -> parse -> flow``; ``flow`` asks ``gate`` for a place, which asks
:mod:`paceline.policy.routing`. What is known of engines lives in ``fleet`` and is fed by ``fleet_file``, ``watch`` and
the flow itself.
"""
