"""Request traces: what arrived when, how long it was, and which prefix blocks it shared.

Read or generated once, then used by the local runtime's load client and by simulation. Nothing here knows of HTTP.
"""
