"""Spans of requests: where did the time go? Off by default; OpenTelemetry is imported only where it is on."""
