"""A public radix tree over KV blocks, asked the same questions as the prefix index: ``radix_oracle.py STEPS``.

Runs alone, in the environment that has ``ai-dynamo-runtime`` (``out/bench-venv``), and prints JSON: for each question
the blocks that every engine holds, and the CPU time of all threads, in microseconds. A step is ``["store", engine,
parent, names]``, ``["remove", engine, names]`` or ``["match", names]``.
"""

import json
import sys
import time
from pathlib import Path

from dynamo.llm import RadixTree  # type: ignore[import-not-found]


def main() -> None:
    tree, found, times = RadixTree(), [], []
    for number, step in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        if step[0] == "match":
            start = time.process_time()
            scores = tree.find_matches(step[1]).scores
            times.append((time.process_time() - start) * 1e6)
            found.append({str(worker): depth for (worker, _), depth in scores.items()})
            continue
        if step[0] == "store":
            blocks = [{"block_hash": name, "tokens_hash": name} for name in step[3]]
            data = {"stored": {"parent_hash": step[2], "blocks": blocks}}
        else:
            data = {"removed": {"block_hashes": step[2]}}
        tree.apply_event(step[1], json.dumps({"event_id": number, "data": data}).encode())
    sys.stdout.write(json.dumps({"found": found, "times": times}))


if __name__ == "__main__":
    main()
