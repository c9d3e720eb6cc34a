"""What Paceline changes within vLLM's own processes. vLLM calls it in each of them: see ``vllm.general_plugins`` in
pyproject.toml.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def register() -> None:
    """Have the processes of a CPU engine sleep for a moment where they would give their turn away by ``sched_yield``.

    Engines with accelerators are left alone. docs/decisions/0033-cpu-engines-share-cores.md says why.
    """
    from vllm.distributed import utils
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    if not hasattr(utils, "USE_SCHED_YIELD"):
        log.warning("This vLLM waits in a way that is not known here: CPU engines that share cores may stand still.")
        return
    utils.USE_SCHED_YIELD = False
