"""HTTP/1.1 for the data path: a server and an upstream client on raw asyncio protocols with httptools.

The router and the emulator stand on it. It exists because a framework costs several times the CPU of the whole routing
decision (docs/decisions); it knows nothing of models, engines or OpenAI.
"""
