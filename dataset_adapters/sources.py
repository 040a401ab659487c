"""Raw files that their publisher lets anyone download: where, how large, which SHA-256, which terms."""

from __future__ import annotations

from dataclasses import dataclass

_MOVIELENS = (
    "for research; no commercial use and no passing on without the permission of the University of Minnesota"
)


@dataclass(frozen=True)
class Publication:
    """One archive.

    Attributes:
        name: what the user types.
        url: the publisher's address.
        size: bytes.
        sha256: of the archive.
        members: the files inside it that the adapter reads.
        adapter: its name.
        terms: in one sentence; the full text is in ``terms_at``.
        terms_at: where the publisher says them.
        cite: what to cite.
        about: one line for ``list``.
    """

    name: str
    url: str
    size: int
    sha256: str
    members: tuple[str, ...]
    adapter: str
    terms: str
    terms_at: str
    cite: str
    about: str


def _movielens(name: str, size: int, sha256: str, members: tuple[str, ...], about: str) -> Publication:
    root = "https://files.grouplens.org/datasets/movielens"
    return Publication(
        name=name,
        url=f"{root}/{name}.zip",
        size=size,
        sha256=sha256,
        members=tuple(f"{name}/{member}" for member in members),
        adapter="movielens",
        terms=_MOVIELENS,
        terms_at=f"{root}/{name}-README.{'html' if name == 'ml-20m' else 'txt'}",
        cite="Harper and Konstan, ACM TiiS 5(4):19, 2015, doi:10.1145/2827872",
        about=about,
    )


SOURCES: dict[str, Publication] = {
    source.name: source
    for source in (
        _movielens(
            "ml-100k",
            4_924_029,
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            ("u.data", "u.item", "u.user"),
            "MovieLens 100K: 943 users, 1,682 films; RecBole brings a copy under the same name",
        ),
        _movielens(
            "ml-1m",
            5_917_549,
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            ("ratings.dat", "movies.dat", "users.dat"),
            "MovieLens 1M: 6,040 users, 3,706 films, a million ratings",
        ),
        _movielens(
            "ml-20m",
            198_702_078,
            "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
            ("ratings.csv", "movies.csv"),
            "MovieLens 20M: 138,493 users, 26,744 films, twenty million ratings",
        ),
    )
}
