"""A vLLM look-alike for machines without GPUs: its HTTP, metrics and cache events, modelled time, made-up text."""
