"""The verb ``play``: a page on this machine on which a person tries trained models."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import (
    MOVED,
    add_verb,
    checkpoint_named,
    moved_places,
    refuse_rest,
    whole_number,
)
from recbole_sigma.values import UserError

MOST = 4  # columns side by side


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = add_verb(
        verbs,
        "play",
        play,
        "a page in the browser: lists of models or decoding modes side by side, with votes and prefixes",
        ("play --checkpoint=latest", "play --checkpoint=saved/FILE,saved/OTHER --port=8000"),
        {
            "checkpoint": f"FILE,FILE  up to {MOST} trained models; latest is the newest below saved/",
            "port": "N  where the page is on 127.0.0.1 (a free one)",
            **MOVED,
        },
    )
    parser.add_argument("--no_browser", action="store_true", help="say the address, open nothing")


def play(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Load the models, say where the page is, and answer until Ctrl-C."""
    refuse_rest("play", rest, ("checkpoint", "port", "no_browser", *MOVED))
    if options.checkpoint is None:
        raise UserError("play needs --checkpoint=FILE, or --checkpoint=latest")
    paths = [checkpoint_named(word.strip()) for word in options.checkpoint.split(",") if word.strip()]
    if not 1 <= len(paths) <= MOST:
        raise UserError(f"--checkpoint: name 1 to {MOST} files, not {len(paths)}")
    port = whole_number(options.port or "0", "port", 0)
    if port > 65535:
        raise UserError(f"--port: give a number up to 65535, not {port}")
    from recbole_sigma.play.server import HOST, check_installed, listen, serve

    check_installed()
    where = listen(port)
    from recbole_sigma.play.desk import Desk
    from recbole_sigma.recommend.recommender import Recommender

    models = [Recommender.load(path, moved_places(options, path)) for path in paths]
    names = [model.config["model"] for model in models]
    shown = [
        name if names.count(name) == 1 else f"{name} ({Path(path).stem})"
        for name, path in zip(names, paths, strict=True)
    ]
    desk = Desk(list(zip(shown, paths, models, strict=True)))
    address = f"http://{HOST}:{where.getsockname()[1]}/"
    print(f"{', '.join(shown)}: {address} (only this machine can reach it; Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        serve(desk, where)
    except KeyboardInterrupt:
        pass
    return 0
