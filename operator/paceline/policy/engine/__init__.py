"""The one engine model: block cache and continuous batching, without a clock, for emulator and simulator."""
