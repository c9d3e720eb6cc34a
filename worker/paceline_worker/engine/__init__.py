"""The program that runs in an engine's pod: it starts vLLM or the emulator as a child, says when it may get work, and
stops it without losing any.

Started as ``python -m paceline_worker.engine`` by the container's command, in a cluster and by the local runtime alike.
It is not on the request path: clients and routers talk to the child directly.
"""
