"""What clients send and engines answer is in no log, at any level, whatever goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from paceline.api import wire
from tests.worker.router.fakes import DONE, LONG, MODEL, FakeEngine, bench, event, status, stream_of

PROMPT = "canary-prompt-5b1d"
OUTPUT = "canary-output-77aa"
KEY = "canary-key-0123456789abcdef"
WRONG_KEY = "canary-wrong-key-0123456789"
CANARIES = ("canary-",)
ECHO = b'{"error":{"message":"could not serve %b %b","code":500}}' % (PROMPT.encode(), OUTPUT.encode())

BODIES: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPT},
    {"prompt": PROMPT, "stream": True},
    {"prompt": LONG + PROMPT, "stream": True},
    {"prompt": PROMPT, "max_tokens": PROMPT},
    {"prompt": PROMPT, "model": "canary-model"},
    {"prompt": {"canary-prompt": 1}},
    {"prompt": PROMPT, "cache_salt": "canary-salt", "user": "canary-user"},
    {"messages": [{"role": "user", "content": PROMPT}]},
    {"messages": [{"role": PROMPT, "content": {"x": PROMPT}}]},
    {"messages": [{"role": "user", "content": [{"image_url": "http://canary-host/"}]}]},
    {"messages": [{"role": "user", "content": PROMPT}], "tools": [{"function": {"name": PROMPT}}]},
)
BEHAVIOURS = {
    "answers": stream_of(event(OUTPUT), DONE),
    "echoes in a 500": status(500, ECHO),
    "echoes in a 503": status(503, ECHO),
    "echoes in a 400": status(400, ECHO),
    "answers what is not JSON": status(200, OUTPUT.encode()),
    "breaks off": stream_of(event(OUTPUT), cut=True),
    "ends with an error": stream_of(event(OUTPUT), b"data: " + ECHO + b"\n\n"),
    "sends garbage": stream_of(event(OUTPUT), b"data: {" + OUTPUT.encode() + b"\n\n", cut=True),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
async def test_no_log_of_the_router_holds_prompts_answers_or_keys(
    tmp_path: Path, behaviour: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "one").write_text(f"{KEY}\n{WRONG_KEY} and more\n")
    engines = [FakeEngine(name, behaviour=behaviour) for name in ("a", "b")]
    engines.append(FakeEngine("p", role=wire.Role.PREFILL, behaviour=behaviour))
    tenancy = wire.Tenancy(tenants=(wire.Tenant(name="one"),))
    async with bench(tmp_path, *engines, tenancy=tenancy, tenant_keys=keys, tokenizer="bytes") as router:
        for body in BODIES:
            path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            for key in (KEY, WRONG_KEY):
                headers = {"Authorization": f"Bearer {key}", "x-paceline-session": "canary-session"}
                await router.client.post(path, json={"model": MODEL, **body}, headers=headers)
        metrics = (await router.client.get(f"{router.admin_url}/metrics")).text
        fleet = (await router.client.get(f"{router.admin_url}/fleet")).text
    ours = [record for record in caplog.records if record.name.startswith("paceline")]
    assert any("one" in record.getMessage() for record in ours), "the logs were looked at"
    formatter = logging.Formatter()
    written = "\n".join(formatter.format(record) for record in ours)
    for canary in CANARIES:
        assert canary not in written
        assert canary not in metrics
        assert canary not in fleet
