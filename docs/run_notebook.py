"""Run docs/first_steps.ipynb in an empty folder and write its outputs into it: ``make notebook``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent / "first_steps.ipynb"


def executed(folder: Path) -> Any:
    """The notebook with fresh outputs.

    Args:
        folder: where it runs.

    Raises:
        CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"a cell warns: {output['text'][:500]}")
    return notebook


if __name__ == "__main__":
    import nbformat

    with tempfile.TemporaryDirectory() as place:
        nbformat.write(executed(Path(place)), NOTEBOOK)
    sys.exit(0)
