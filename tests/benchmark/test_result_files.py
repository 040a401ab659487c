"""Names of result files: two runs that start in the same second keep apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from recbole_sigma.benchmark.results import result_path


def test_runs_of_one_second_get_files_of_their_own(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: result_path(tmp_path / "out", "table", "ml"), range(40)))
    assert len(set(paths)) == 40 and all(path.exists() for path in paths)
