"""docs/licences.md names every direct dependency, with the licence that the pinned version states."""

from __future__ import annotations

import pytest

from tests.packaging import licences


def test_every_direct_dependency_is_listed() -> None:
    assert list(licences.listed()) == licences.direct_dependencies()
    assert "not stated" not in licences.listed().values()


@pytest.mark.parametrize("name", licences.direct_dependencies())
def test_the_licence_is_what_the_package_states(name: str) -> None:
    if not licences.pinned(name):
        pytest.skip(f"{name} is not installed in the pinned version")
    assert licences.listed()[name] == licences.licence(name), "run `make licences`"
