"""Bad input of every kind ends in one sentence and exit code 2; nothing runs, nothing is half done."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.commands.failures import fail
from recbole_sigma.commands.main import main
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.values import UserError
from tests.planted import write_chain

COLUMNS = "--load_col={inter: [user_id, item_id, timestamp], item: [item_id, title, genre]}"
SIGMA = ["--model=SIGMA", "--text_fields=[title]", "--grounding_steps=2", "--tokenizer_codebook_size=4"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


Row = tuple[str, Callable[[Path], Any], str]
ROWS: list[Row] = []


def words(name: str, sentence: str, *argv: str, model: str = "--model=BPR") -> None:
    """A row of command-line words beside a good dataset."""
    given = {word.split("=")[0] for word in argv}
    base = [
        word
        for word in (model, "--dataset=planted", COLUMNS, "--epochs=1")
        if word.split("=")[0] not in given
    ]
    ROWS.append((name, lambda folder: [*base, *argv], sentence))


def of_sigma(name: str, sentence: str, *argv: str) -> None:
    """A row about SIGMA's keys."""
    given = {word.split("=")[0] for word in argv}
    ROWS.append(
        (
            name,
            lambda folder: [
                *(word for word in SIGMA if word.split("=")[0] not in given),
                "--dataset=planted",
                COLUMNS,
                *argv,
            ],
            sentence,
        )
    )


def file(name: str, sentence: str, content: str | bytes) -> None:
    """A row of a property file."""

    def act(folder: Path) -> list[str]:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "bad.yaml").write_bytes(data)
        return ["--model=BPR", "--dataset=planted", COLUMNS, "--config_files=bad.yaml"]

    ROWS.append((name, act, sentence))


def data(name: str, sentence: str, change: Callable[[Path], Any], *argv: str) -> None:
    """A row of damaged atomic files; ``change`` gets the dataset's folder."""

    def act(folder: Path) -> list[str]:
        change(folder / "dataset" / "planted")
        chosen = list(argv) if any(word.startswith("--model") for word in argv) else ["--model=BPR", *argv]
        return [*chosen, "--dataset=planted", COLUMNS, "--epochs=1"]

    ROWS.append((name, act, sentence))


def checkpoint(name: str, sentence: str, damage: Callable[[bytes], bytes]) -> None:
    """A row of a damaged checkpoint."""

    def act(folder: Path) -> Callable[[], Any]:
        values = {
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "show_progress": False,
            "epochs": 1,
        }
        result = run("Pop", "planted", config_dict={**values, "state": "ERROR", "checkpoint_dir": "good"})
        content = Path(result["checkpoint"]).read_bytes()
        (folder / "bad.safetensors").write_bytes(damage(content))
        return lambda: evaluate_checkpoint("bad.safetensors")

    ROWS.append((name, act, sentence))


# --- words ---
PAYLOAD = "__import__('os').system('touch owned')"
words("model misspelt", "unknown model 'BPRR'; nearest: BPR", "--model=BPRR")
words("model with a path", "unknown model", "--model=../../etc/passwd")
words("model with dots", "unknown model", "--model=os.system")
words("key misspelt", "unknown key 'epoch' in the command line; nearest: epochs", "--epoch=1")
words("key of python", "unknown key '__class__'", "--__class__=1")
words("dataset unknown", "does not exist; nearest: planted", "--dataset=plantd")
words("dataset that climbs", "dataset .* must be the plain name of a folder", "--dataset=../planted")
words("dataset absolute", "dataset .* must be the plain name of a folder", "--dataset=/etc")
words("dataset empty", "dataset", "--dataset=")
words("word that is no option", "'epochs' on the command line is not `--key=value`", "epochs")
words("key twice", "--seed is given twice", "--seed=1", "--seed=2")
words("rate negative", r"learning_rate must lie in \[0, 100\]", "--learning_rate=-1")
words("rate nan", r"learning_rate must lie in \[0, 100\]", "--learning_rate=.nan")
words("rate in words", "learning_rate must be a number", "--learning_rate=fast")
words("rate as payload", "learning_rate must be a number", f"--learning_rate={PAYLOAD}")
words("epochs zero", "epochs must lie in", "--epochs=0")
words("epochs huge", "epochs must lie in", "--epochs=999999999999")
words("epochs as payload", "epochs must be", f"--epochs={PAYLOAD}")
words("seed negative", "seed must lie in", "--seed=-3")
words("topk zero", "topk must be a list of positive integers", "--topk=[0]", "--valid_metric=NDCG")
words("topk words", "topk must be a list of integers", "--topk=ten")
words("topk longer than the catalogue", r"topk 900 is larger than the catalogue of planted \(48 items\)",
      "--topk=[900]", "--valid_metric=NDCG@900")  # fmt: skip
words("metric misspelt", "unknown metric 'NDGC'; nearest: ndcg", "--metrics=[NDGC]")
words("metric that needs scores", "metric AUC needs the scores of all items", "--metrics=[AUC]")
words("valid metric not computed", "valid_metric 'NDCG@7' is not computed", "--valid_metric=NDCG@7")
words("split unknown", "split must be one of", "--eval_args={split: {XX: 1}}")
words("split ratios negative", "split", "--eval_args={split: {RS: [-1, 2]}}")
words("sampled candidates", "samples candidates", "--eval_args={mode: uni100}")
words("split a number", "split must be one of", "--eval_args={split: 3}")
words("order unknown", "order must be TO .* or RO", "--eval_args={order: XX}")
words("eval_args a word", "eval_args must be a mapping", "--eval_args=full")
words("switch that is none", "filter_seen must be true or false", "--filter_seen=maybe")
words("schedule unknown", "train_schedule must be one of", "--train_schedule=linaer")
words("learner unknown", "learner must be one of", "--learner=adamm")
words("history zero", "MAX_ITEM_LIST_LENGTH must lie in", "--MAX_ITEM_LIST_LENGTH=0", model="--model=SASRec")
words("processes zero", "nproc must lie in", "--nproc=0")
words("processes without end", "nproc 60000 is more than this machine can run", "--nproc=60000")
words("processes that do not fit", "exceeds world_size", "--nproc=3", "--world_size=2")
words("checkpoint steps negative", "checkpoint_steps must lie in", "--checkpoint_steps=-1")
words("resume maybe", "resume must be true or false", "--resume=maybe")
words("seeds of a table", "--seeds does not belong", "--seeds=1,2")
words("deep brackets", "topk must be a list", "--topk=" + "[" * 4000)
words("loss not finite", "training loss of BPR is .* in epoch .*, batch", "--learner=sgd",
      "--learning_rate=100.0", "--weight_decay=100.0", "--epochs=5", "--train_batch_size=4")  # fmt: skip
words("config file missing", "the config file no.yaml does not exist", "--config_files=no.yaml")

# --- property files ---
file("yaml broken", r"bad.yaml:3 is not valid YAML", "epochs: 1\nseed: [1\n")
file("yaml list", "bad.yaml holds a list", "- 1\n- 2\n")
file("yaml that calls", "bad.yaml:1 is not valid YAML: could not determine a constructor",
     "epochs: !!python/object/apply:os.system ['touch owned']\n")  # fmt: skip
file("yaml that makes an object", "could not determine a constructor",
     "seed: !!python/object/new:os.system ['touch owned']\n")  # fmt: skip
file("yaml not text", "bad.yaml cannot be read", b"\xff\xfe\x00epochs")
file("yaml bomb", "bad.yaml .*nests",
     "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
         f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")))  # fmt: skip
file("yaml deep", "bad.yaml .*nests", "epochs: " + "[" * 3000 + "]" * 3000)
file("yaml long", "bad.yaml cannot be read: it is longer than 1048576 bytes", "# " + "x" * (1 << 20))
file("yaml zero byte", "log_dir holds a zero byte", 'log_dir: "a\\0b"\n')
file("key misspelt in a file", "unknown key 'epoch' in bad.yaml; nearest: epochs", "epoch: 1\n")
file("type wrong in a file", "epochs must be .* .in bad.yaml", "epochs: many\n")


# --- atomic files ---
def inter(change: Callable[[list[str]], list[str]]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "planted.inter"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return apply


def item(change: Callable[[list[str]], list[str]]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "planted.item"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return apply


def at(line: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:line], text, *lines[line + 1 :]]


data("no interactions", "planted.inter does not exist", lambda d: (d / "planted.inter").unlink())
data("folder is a file", "does not exist|is not a folder",
     lambda d: (d.rename(d.with_name("away")), d.write_text("")))  # fmt: skip
data("empty file", "planted.inter", lambda d: (d / "planted.inter").write_text(""))
data("header only", "holds no interaction below its header", inter(lambda lines: lines[:1]))
data("header without types", "is not `name:type`", inter(at(0, "user_id\titem_id\ttimestamp")))
data("commas for tabs", "is not `name:type`", inter(lambda lines: [x.replace("\t", ",") for x in lines]))
data("no item", "has no column 'item_id'", inter(at(0, "user_id:token\titem:token\ttimestamp:float")))
data(
    "no time",
    "has no column 'timestamp'.*it has user_id, item_id, when",
    inter(at(0, "user_id:token\titem_id:token\twhen:float")),
)
data(
    "time in words",
    r"planted.inter:5 has 'yesterday' in column 'timestamp'",
    inter(at(4, "u1\tg1i1\tyesterday")),
)
data("time nan", r"planted.inter:5 .*timestamp", inter(at(4, "u1\tg1i1\tnan")))
data("time infinite", r"planted.inter:5 .*timestamp", inter(at(4, "u1\tg1i1\tinf")))
data("line too short", r"planted.inter:5 has 2 columns", inter(at(4, "u1\tg1i1")))
data("line too long", r"planted.inter:5 has 5 columns", inter(at(4, "u1\tg1i1\t1\t2\t3")))
data("no user in a line", r"planted.inter:5 .*user_id.* empty", inter(at(4, "\tg1i1\t7")))
data("not text", "planted.inter:5 is not UTF-8",
     lambda d: (d / "planted.inter").write_bytes(
         (d / "planted.inter").read_bytes().replace(b"u0\tg0i3", b"u0\xff\xfe\tg0i3")))  # fmt: skip
data("zero bytes", r"planted.inter:5 .*zero byte", inter(at(4, "u1\x00\tg1i1\t7")))
data("users with one event", "users in dataset 'planted' have one event",
     inter(lambda lines: [lines[0], *lines[1::10]]))  # fmt: skip
data("filtered to nothing", "planted", lambda d: None, "--user_inter_num_interval=[500,inf)")
data("no item file", "reads item text, but .*planted.item does not exist",
     lambda d: (d / "planted.item").unlink(), *SIGMA)  # fmt: skip
data("text field misspelt", "has no text field 'titel'; nearest: title", lambda d: None,
     *SIGMA[:1], "--text_fields=[titel]")  # fmt: skip
data(
    "item twice",
    r"planted.item:4 has item_id 'g0i0' twice .first in line 2",
    item(at(3, "g0i0\tagain\tgenre0")),
    *SIGMA,
)
data("item line too short", r"planted.item:4 has 1 column", item(at(3, "g0i2")), *SIGMA)

# --- the property file beside the data ---
data("settings that are a folder", "planted.yaml is no file", lambda d: (d / "planted.yaml").mkdir())
data("settings that link to themselves", "planted.yaml is no file",
     lambda d: (d / "planted.yaml").symlink_to("planted.yaml"))  # fmt: skip
data("settings from a pipe", "planted.yaml is no file", lambda d: os.mkfifo(d / "planted.yaml"))
data("settings of the wrong kind", "use_gpu must be true or false, not 'banana' .in .*planted.yaml",
     lambda d: (d / "planted.yaml").write_text("use_gpu: banana\n"))  # fmt: skip
data("config file that is a pipe", "config.yaml cannot be read: it is a device or a pipe",
     lambda d: os.mkfifo("config.yaml"), "--config_files=config.yaml")  # fmt: skip

# --- SIGMA's and TIGER's keys ---
of_sigma("view unknown", "grounding_views", "--grounding_views=[colaborative]")
of_sigma("levels zero", "tokenizer_levels must lie in", "--tokenizer_levels=0")
of_sigma("prefix longer than the ID", "tokenizer_prefix_length", "--tokenizer_prefix_length=9")
of_sigma("codebook larger than the catalogue", "tokenizer_codebook_size", "--tokenizer_codebook_size=4000")
of_sigma("quantizer unknown", "tokenizer_quantizer", "--tokenizer_quantizer=kmeens")
of_sigma("vectors unknown", "tokenizer_vectors", "--tokenizer_vectors=[texts]")
of_sigma("encoder unknown", "grounding_text_encoder", "--grounding_text_encoder=bert")
of_sigma(
    "encoder folder missing",
    "grounding_text_encoder|sentence",
    "--grounding_text_encoder=sentence-transformers:./no",
)
of_sigma("backbone unknown", "backbone: .*scratch:tiny", "--backbone=scratch:gigantic")
of_sigma("fusion input unknown", "fusion_inputs", "--fusion_inputs=[image]")
of_sigma("decode mode unknown", "decode_mode must be one of", "--decode_mode=best")
of_sigma("artifact folder is a file", "artifact_dir", "--artifact_dir=dataset/planted/planted.inter")


def damaged_artifact(folder: Path) -> list[str]:
    run = [
        *SIGMA,
        "--dataset=planted",
        COLUMNS,
        "--epochs=1",
        "--quiet",
        "--output=good",
        "--checkpoint_dir=good",
    ]
    extra = ["--artifact_dir=kept", "--tokenizer_bpe_size=120", "--grounding_text_dim=8", "--grounding_dim=8"]
    assert main([*run, *extra, "--grounding_teacher_dim=8"]) == 0
    (path,) = (folder / "kept").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    return [*run[:-2], "--seed=2020", *extra, "--grounding_teacher_dim=8"]


ROWS.append(("artifact damaged", damaged_artifact, "is damaged .* delete the file and run again"))

# --- checkpoints ---
checkpoint("checkpoint pickled", "is not a recbole-sigma checkpoint", lambda content: pickle.dumps(Evil()))
checkpoint("checkpoint cut", "damaged|is not a recbole-sigma", lambda content: content[: len(content) // 2])
checkpoint(
    "checkpoint flipped", "damaged", lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:]
)
checkpoint("checkpoint empty", "is not a recbole-sigma checkpoint", lambda content: b"")
checkpoint("checkpoint with a deep header", "is not a recbole-sigma checkpoint",
           lambda content: (200_000).to_bytes(8, "little") + b"[" * 200_000)  # fmt: skip
checkpoint("checkpoint with a huge header", "is not a recbole-sigma checkpoint",
           lambda content: (1 << 62).to_bytes(8, "little") + content[8:])  # fmt: skip

# --- environment ---
words(
    "log folder is a file",
    "a file stands where a folder is needed|log",
    "--log_dir=dataset/planted/planted.inter",
)
words(
    "checkpoint folder is a file",
    "a file stands where a folder is needed",
    "--checkpoint_dir=dataset/planted/planted.inter",
)
words("folder that takes no files", "/proc", "--checkpoint_dir=/proc/none")
words("output is a file", "a file stands where a folder is needed", "--output=dataset/planted/planted.inter")


def test_the_table_is_long_and_its_rows_are_named_once() -> None:
    names = [name for name, *_ in ROWS]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.parametrize(("act", "sentence"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_one_sentence_and_nothing_half_done(act, sentence, scratch: Path, capsys) -> None:
    write_chain(scratch / "dataset" / "planted")
    chosen = act(scratch)
    capsys.readouterr()
    if callable(chosen):
        try:
            chosen()
            code = 0
        except UserError as error:
            code = fail(str(error), 2, [])
    else:
        code = main(chosen)
    out = capsys.readouterr()
    assert code == 2, out.err
    lines = [line for line in out.err.splitlines() if line.strip()]
    error = [k for k, line in enumerate(lines) if line.startswith("error: ")]
    assert len(error) == 1, out.err
    assert re.search(sentence, " ".join(lines[error[0] :])), out.err
    assert "Traceback" not in out.err and not out.out
    assert not (scratch / "owned").exists()
    left = [p for p in scratch.rglob("*") if p.suffix in (".tmp",)]
    left += [p for p in (scratch / "saved").rglob("*.json")]
    assert left == []
