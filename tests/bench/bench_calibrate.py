"""Does calibration through the API find an engine's profile? Measures the emulator, whose profile is known.

    python -m tests.bench.bench_calibrate

Prints what was found over what is true at loads inside and outside the measured grid, and fails if any is off by more
than 10%. Takes about 90 s, in which nothing else should use the machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import httpx

from paceline.planning.calibration import calibrate, sentences
from paceline.planning.endpoint import measure
from paceline.policy.scaling.profiles import get_profile
from tests.processes import free_ports

PROFILE = "qwen3-32b-h200-tp2"
START = "llama-3.1-70b-h100-tp4"
"""What the calibration begins with: another engine altogether."""
PREFILLS = ((256, 0), (1024, 0), (8000, 0), (2000, 20_000), (30_000, 0))
STEPS = ((1, 1000), (16, 32_000), (64, 64_000), (64, 128_000), (128, 256_000))
MOST_OFF = 0.10
START_SECONDS = 30.0


def main() -> int:
    """Start an emulator, measure it, stop it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "paceline_worker.emulator", "--host", "127.0.0.1", "--port", str(port), "--profile", PROFILE]
    engine = subprocess.Popen([sys.executable, *command, "--model", "qwen"], stderr=subprocess.DEVNULL)
    try:
        _wait(url)
        found = asyncio.run(
            measure(url, model=None, seed=0, progress=lambda what, share: print(f"{100 * share:3.0f}% {what}"))
        )
    finally:
        engine.terminate()
        engine.wait()
    made = calibrate(found.points, get_profile(START), name="found", provenance="the emulator")
    print("\n".join(sentences(made)))
    true, worst = get_profile(PROFILE), 0.0
    for what, loads, measured, known in (
        ("prefill", PREFILLS, made.profile.prefill_seconds, true.prefill_seconds),
        ("step", STEPS, made.profile.step_seconds, true.step_seconds),
    ):
        for load in loads:
            ratio = measured(*load) / known(*load)
            worst = max(worst, abs(ratio - 1))
            print(
                f"{what}{load}: {1000 * measured(*load):.2f} ms, true {1000 * known(*load):.2f} ms, ratio {ratio:.3f}"
            )
    print(f"worst: {100 * worst:.1f}% off")
    return int(worst > MOST_OFF)


def _wait(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(f"no emulator at {url} after {START_SECONDS:g} s")


if __name__ == "__main__":
    sys.exit(main())
