"""Fetches a model's tokenizer from the Hugging Face hub into a folder.

``python -m paceline_worker.router.tokens.download`` is the init container of router pods. It never fails: a router
without these files routes by text, and serves; engines need the same hub for the weights.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger("paceline_worker.router.tokens.download")

FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/*.jinja", "tekken.json", "tokenizer.model.v*",
)  # fmt: skip
"""What :mod:`.folder` looks at. Never weights."""
PATIENCE_SECONDS: Final = 60.0
"""A router does not wait longer for its tokenizer."""


def download(repository: str, revision: str | None, into: Path) -> None:
    """Runs in a process of its own, which can be ended. Raises what the hub's client raises."""
    # Imported here: the client takes longer to import than the router takes to start.
    from huggingface_hub import snapshot_download

    snapshot_download(repository, revision=revision, allow_patterns=list(FILES), local_dir=into)


def main(arguments: Sequence[str]) -> int:
    """0, whatever happens to the download."""
    parser = argparse.ArgumentParser(prog="python -m paceline_worker.router.tokens.download", description=__doc__)
    parser.add_argument("--repository", required=True, help="owner/name on the hub")
    parser.add_argument("--revision", help="branch, tag or commit; default: the default branch")
    parser.add_argument("--into", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seconds", type=float, default=PATIENCE_SECONDS, help="how long to try")
    flags = parser.parse_args(arguments)
    work = multiprocessing.get_context("spawn").Process(
        target=download, args=(flags.repository, flags.revision, flags.into), daemon=True
    )
    work.start()
    work.join(flags.seconds)
    if work.is_alive():
        work.kill()
        work.join()
        log.warning("%s: no tokenizer within %g s; prompts are routed by their text", flags.repository, flags.seconds)
    elif work.exitcode != 0:
        log.warning("%s: no tokenizer, the reason is above; prompts are routed by their text", flags.repository)
    else:
        log.info("%s: the tokenizer is in %s", flags.repository, flags.into)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.exit(main(sys.argv[1:]))
