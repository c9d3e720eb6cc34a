"""Stands in for vLLM's server: ``python -m vllm.entrypoints.openai.api_server`` with this folder first on the path.

It takes vLLM's flags, answers what the worker asks, and misbehaves as the environment variable FAKE_VLLM says:
``crash`` (before it listens), ``sick`` (/health answers 503 for ever), ``broken`` (completions answer 500),
``stubborn`` (ignores SIGTERM). It starts one grandchild, as vLLM starts its engine core.

A streamed completion runs until somebody posts ``/release``; ``/hold`` and ``/fetch`` change the share of held KV
blocks, ``/die`` ends the process, ``/ecc`` has it report a fault of its GPU and go on as if nothing had happened.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("FAKE_VLLM", "")


class State:
    def __init__(self) -> None:
        self.running = 0
        self.held = 0.0
        self.released = threading.Event()


STATE = State()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(503 if MODE == "sick" else 200, b"")
        elif self.path == "/metrics":
            lines = [
                f'vllm:num_requests_running{{engine="0"}} {STATE.running}.0',
                'vllm:num_requests_waiting{engine="0"} 0.0',
                f'vllm:kv_cache_usage_perc{{engine="0"}} {STATE.held}',
            ]
            self._answer(200, "\n".join(lines).encode())
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/completions":
            self._complete(json.loads(body))
        elif self.path == "/die":
            print(
                "(EngineCore pid=9) ERROR 11-21 05:00:00 [core.py:1] ValueError: the fake was told to die", flush=True
            )
            os._exit(1)
        elif self.path == "/ecc":
            print(
                "(EngineCore pid=9) ERROR 11-21 05:00:00 [core.py:1] torch.AcceleratorError: CUDA error: "
                "uncorrectable ECC error encountered",
                flush=True,
            )
            self._answer(200, b"")
        elif self.path == "/release":
            STATE.released.set()
            self._answer(200, b"")
        elif self.path == "/hold":
            STATE.held = 0.25
            self._answer(200, b"")
        elif self.path == "/fetch":
            STATE.held = 0.0
            self._answer(200, b"")

    def _complete(self, request: dict[str, object]) -> None:
        if MODE == "broken":
            self._answer(500, b'{"error":{"message":"no tokens today"}}')
            return
        if request.get("stream"):
            # Runs until somebody asks for /release, so that a test decides how long it is in flight.
            STATE.running += 1
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"data: {}\n\n")
            self.wfile.flush()
            STATE.released.wait()
            self.wfile.write(b"data: [DONE]\n\n")
            STATE.running -= 1
            return
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        self._answer(200, json.dumps({"choices": [{"text": " four"}], "usage": usage}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    arguments = sys.argv
    host = arguments[arguments.index("--host") + 1]
    port = int(arguments[arguments.index("--port") + 1])
    print("fake vLLM is loading", flush=True)
    if MODE == "crash":
        print("Traceback (most recent call last):", flush=True)
        print("ValueError: the checkpoint is empty", flush=True)
        print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        sys.exit(1)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["VLLM::EngineCore", "-c", "import time; time.sleep(600)"], executable=sys.executable)
    if "FAKE_VLLM_PIDS" in os.environ:
        Path(os.environ["FAKE_VLLM_PIDS"]).write_text(f"{os.getpid()} {grandchild.pid}")
    Server((host, port), Handler).serve_forever()


main()
