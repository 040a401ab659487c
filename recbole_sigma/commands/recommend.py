"""The verb ``recommend``: lists from a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import MOVED, add_verb, moved_places, refuse_rest, whole_number
from recbole_sigma.settings.reading import nearest, raise_all
from recbole_sigma.values import UserError

FAREWELLS = frozenset({"bye", "goodbye", "exit", "quit", "q"})
LONGEST_LINE = 100_000  # characters that are read at once in a talk
MAX_BYTES = 1 << 28  # of --users_file
BATCH = 256  # users of one batch of --users_file
OPTIONS = (
    "checkpoint", "user", "history", "instruction", "task", "slot", "k", "filter", "format", "users_file",
    "output", "reader", "explain", "chat", "history_until", *MOVED,
)  # fmt: skip


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = add_verb(
        verbs,
        "recommend",
        recommend,
        "lists from a checkpoint, for one user or many",
        (
            'recommend --checkpoint=saved/FILE --history="Toy Story; Aladdin" --instruction="no horror"',
            "recommend --checkpoint=saved/FILE --user=ID --chat",
            "recommend --checkpoint=saved/FILE --users_file=users.txt --k=20 --output=lists.jsonl",
        ),
        {
            "checkpoint": "FILE  the trained model; latest is the newest below saved/",
            "user": "ID  a user of the data set; all events count, the held-out ones too",
            "history_until": "PART  valid or test: a user's history ends before what this part judges",
            "history": '"A; B"  titles or ids in order of time',
            "users_file": "FILE  a line per user: an id, or a JSON object with history, instruction, ...",
            "instruction": "TEXT  any sentence: 'a comedy, but not romantic'",
            "reader": "READER  second reader of sentences: encoder:FOLDER or model:FOLDER",
            "task": "NAME  a trained task in place of a sentence",
            "slot": "TEXT  what the task asks for",
            "k": "N  length of the lists (10)",
            "format": "FORM  table or json",
            "output": "FILE  where the lists of --users_file go (standard output)",
            "-d dataset": "NAME  refuse a checkpoint of another data set",
            **MOVED,
        },
    )
    parser.add_argument("--explain", action="store_true", help="say for every item why it is there")
    parser.add_argument("--chat", action="store_true", help="go on talking: a sentence a line, 'bye' ends it")
    parser.add_argument("--users-file", dest="users_file", help=argparse.SUPPRESS)
    parser.add_argument("--history-until", dest="history_until", help=argparse.SUPPRESS)
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="RULE",
        help="category=NAME, seen or seen=false; may repeat",
    )


def recommend(options: argparse.Namespace, rest: list[str]) -> int:
    """Lists from a checkpoint."""
    refuse_rest("recommend", rest, OPTIONS)
    if options.checkpoint is None:
        raise UserError(
            "recommend needs --checkpoint=FILE, and --history=... or --user=... or --users_file=..."
        )
    form = options.format or "table"
    if form not in ("table", "json"):
        raise UserError(f"--format must be table or json, not {form!r}")
    k = whole_number(options.k or "10", "k", 1)
    if options.users_file is None and options.user is None and options.history is None:
        raise UserError("recommend needs --history='title; title', --user=ID or --users_file=FILE")
    if options.chat and (options.users_file is not None or form == "json" or options.json):
        raise UserError("--chat talks with one person: leave out --users_file, --format=json and --json")
    from recbole_sigma.recommend.recommender import Recommender
    from recbole_sigma.run import checkpoint as files
    from recbole_sigma.understanding.paraphrase import paraphrase_of

    base = _request(options)
    requests = None if options.users_file is None else read_requests(Path(options.users_file), base)
    files.read(options.checkpoint, dataset=options.dataset)
    reader = None if options.reader is None else paraphrase_of(options.reader)
    recommender = Recommender.load(options.checkpoint, moved_places(options), reader, options.history_until)
    if options.chat:
        return _chat(recommender, base, k)
    if requests is not None:
        return _many(recommender, requests, k, options.output)
    answer = recommender.answer([base], k, explained=options.explain)[0]
    if form == "json" or options.json:
        print(json.dumps(answer.plain(), ensure_ascii=False, indent=1))
        return 0
    _print_answer(answer)
    return 0


def _request(options: argparse.Namespace) -> Any:
    """The request of the command line."""
    from recbole_sigma.recommend.answers import Request

    category, keep_seen = None, None
    for text in options.filter:
        name, equals, value = text.partition("=")
        if name == "category" and value:
            category = value
        elif name == "seen" and value in ("", "true", "false"):
            keep_seen = value == "false"
        else:
            raise UserError(
                f"--filter: {text[:80]!r} is no filter; use category=NAME, seen (no repeats of the history) "
                "or seen=false (repeats allowed)"
            )
    return Request(
        user=options.user,
        history=None if options.history is None else split_history(options.history),
        instruction=options.instruction,
        task=options.task,
        slot=options.slot,
        category=category,
        keep_seen=keep_seen,
    )


def split_history(text: str) -> list[str]:
    """Titles separated by ';' (a title may hold commas).

    >>> split_history("Toy Story; Usual Suspects, The;")
    ['Toy Story', 'Usual Suspects, The']
    """
    return [part.strip() for part in text.split(";") if part.strip()]


def _print_answer(answer: Any) -> None:
    from tabulate import tabulate

    if answer.instruction:
        print(f"task: {answer.task}\ninstruction: {answer.instruction}")
    for note in answer.notes:
        print(note)
    body = [[row.rank, row.title, row.item, f"{row.score:.4f}", row.prefix] for row in answer.items]
    print(tabulate(body, headers=["rank", "title", "item", "score", "prefix"], disable_numparse=True))
    for place, why in enumerate(answer.explanations, 1):
        print(f"{place}. {why.told()}")


def _chat(recommender: Any, base: Any, k: int) -> int:
    """Read sentences until the person leaves; a mistake is told and the talk goes on."""
    from recbole_sigma.recommend.conversation import Conversation

    talk = Conversation(recommender, base.history, base.user, k)
    print("what would you like? 'bye' ends the talk", flush=True)
    waiting = [base.instruction] if base.instruction else []
    while True:
        if waiting:
            line = waiting.pop()
        else:
            print("> ", end="", flush=True)
            typed = sys.stdin.readline(LONGEST_LINE)
            line = typed.strip()
            if typed and not sys.stdin.isatty():  # a terminal shows what is typed; a pipe does not
                print(line, flush=True)
            if not typed or line.lower() in FAREWELLS:
                print()
                return 0
        if not line:
            continue
        try:
            turn = talk.say(line)
        except UserError as error:
            print(error, flush=True)
            continue
        _print_answer(turn.answer)
        for text in (turn.why, turn.question):
            if text:
                print(text)
        sys.stdout.flush()


def read_requests(path: Path, base: Any) -> list[tuple[str, Any]]:
    """Requests of a file: a line is a user id, or a JSON object with keys of `recommend.Request`.

    Args:
        path: the file; empty lines are skipped.
        base: what a line does not say comes from here.

    Raises:
        UserError: with every bad line; no file; no line.
    """
    import dataclasses

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(f"it is longer than {MAX_BYTES} bytes: cut it into several")
        lines = content.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--users_file: {path} cannot be read: {error}") from error
    known = [field.name for field in dataclasses.fields(base)]
    found: list[tuple[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        where = f"{path}:{number}"
        values: Any = {"user": text}
        if text.startswith("{"):
            try:
                values = json.loads(text, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                problems.append(f"{where} is no JSON object: {error}")
                continue
        unknown = [key for key in values if key not in known]
        if unknown:
            problems.append(f"{where} has the unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
        elif wrong := _wrong_request(values):
            problems.append(f"{where}: {wrong}")
        else:
            texts = {key: value for key, value in values.items() if key not in ("history", "keep_seen")}
            texts = {key: None if value is None else str(value) for key, value in texts.items()}
            found.append((where, dataclasses.replace(base, **{**values, **texts})))
    if not found and not problems:
        problems.append(f"--users_file: {path} holds no user")
    raise_all(problems[:20])
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once; of two values neither is the one that was meant."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands in it twice")
    return values


def _wrong_request(values: dict[str, Any]) -> str | None:
    """The sentence about a value of a request that is of another kind than `recommend.Request` wants."""
    for key, value in values.items():
        if key == "history":
            parts = value if isinstance(value, list) else [[]]
            if not all(isinstance(part, (str, int)) and not isinstance(part, bool) for part in parts):
                return "history must be a list of titles or ids"
        elif key == "keep_seen":
            if value is not None and not isinstance(value, bool):
                return f"keep_seen must be true or false, not {str(value)[:40]!r}"
        elif value is not None and (not isinstance(value, (str, int)) or isinstance(value, bool)):
            return f"{key} must be text, not {str(value)[:40]!r}"
    return None


def _many(recommender: Any, requests: list[tuple[str, Any]], k: int, output: str | None) -> int:
    """One JSON line per request, to a file or to standard output; the throughput to standard error."""
    from recbole_sigma.machine.files import write_atomically

    started = time.perf_counter()
    lines: list[str] = []
    for part in _batches(requests):
        try:
            answers = recommender.answer([request for _, request in part], k)
        except UserError:
            for where, request in part:  # name the line
                try:
                    recommender.answer([request], k)
                except UserError as error:
                    raise UserError(f"{where}: {error}") from error
            raise
        for (_, request), answer in zip(part, answers, strict=True):
            lines.append(json.dumps({"user": request.user, **answer.plain()}, ensure_ascii=False))
    seconds = time.perf_counter() - started
    text = "\n".join(lines) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    rate = len(lines) / max(seconds, 1e-9)
    print(f"{len(lines)} users in {seconds:.2f} s, {rate:.1f} users per second", file=sys.stderr)
    return 0


def _batches(requests: list[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    for begin in range(0, len(requests), BATCH):
        yield requests[begin : begin + BATCH]
