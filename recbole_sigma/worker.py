"""One process of several, started by `launch`; its settings come as a line of JSON on stdin."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from recbole_sigma.values import UserError


def main(folder: Path) -> int:
    """Run, and leave ``result.json`` (rank 0) or ``error-<rank>.json`` in the folder.

    Returns:
        The exit code.
    """
    call = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    rank = os.environ["RANK"]
    try:
        from recbole_sigma.quick_start import run
        from recbole_sigma.run.launch import write_result

        result = run(**call)
        if rank == "0":
            (folder / "result.json").write_text(json.dumps(write_result(result)))
    except BaseException as error:
        _explain(error, folder / f"error-{rank}.json")
        return 1
    return 0


def _explain(error: BaseException, path: Path) -> None:
    """Say why this process ends; a lost connection weighs least, since it follows from another's end."""
    from recbole_sigma.run.logs import without_secrets

    lost = "onnection" in str(error) or "DistBackendError" in type(error).__name__
    told: dict[str, Any] = {
        "kind": "UserError" if isinstance(error, UserError) else type(error).__name__,
        "text": without_secrets(str(error)),
        "time": time.time(),
        "weight": 3 if lost else 1,
    }
    if isinstance(error, UserError):
        told["weight"] = 1
    elif not isinstance(error, KeyboardInterrupt) and not lost:
        print(without_secrets(traceback.format_exc()), file=sys.stderr, flush=True)
    path.write_text(json.dumps(told))


def _stop_with_launcher() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the launcher closes the pipe, or is gone
    os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a process whose peers are gone would wait for them when torch.distributed is torn down
