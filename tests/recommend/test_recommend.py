"""recommend: typed histories, sentences, filters, batches, and every mistake in one sentence."""

import json

import numpy as np
import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.commands.recommend import split_history
from recbole_sigma.recommend.lists import Row
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.recommend.titles import Titles
from recbole_sigma.values import UserError
from tests import planted as scenes


@pytest.fixture(scope="module")
def recommender(chosen_run):
    return Recommender.load(chosen_run["checkpoint"])


def test_a_typed_history_gives_titled_items(recommender):
    found = recommender.recommend(history=["the red thing 0", "blue1"], k=5)
    assert [row.rank for row in found] == [1, 2, 3, 4, 5]
    assert all(row.title.startswith("the ") and row.prefix.startswith("<a_") for row in found)
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)


def test_a_named_task_and_its_own_sentence_agree(recommender):
    named = recommender.recommend(history=["red0"], task="Category", slot="Green", k=4)
    own = "Recommend an item from the category: green"
    (typed,) = recommender.answer([_request(history=["red0"], instruction=own)], 4)
    assert typed.instruction == own and typed.task == "Category"
    greens = [row.item for row in named if row.item.startswith("green")]
    assert [row.item for row in typed.items][: len(greens)] == greens
    assert named != recommender.recommend(history=["red0"], k=4)


def test_a_user_stands_for_its_interactions(recommender):
    own = recommender._events_of(int(recommender.dataset.field2token_id["user_id"]["u3"]))
    tokens = [recommender.material.tokens[i] for i in own]
    one = recommender.recommend(user="u3", k=4)
    two = recommender.recommend(user="u3", history=tokens, k=4)
    assert len(tokens) == 6 and one == two


def test_filters(recommender):
    only = recommender.recommend(history=["red0"], category="green", k=4)
    assert [row.item.rstrip("0123") for row in only] == ["green"] * 4
    never = recommender.recommend(history=["red0", "red1"], keep_seen=False, k=16)
    assert len(never) == 14 and not {"red0", "red1"} & {row.item for row in never}
    (answer,) = recommender.answer([_request(history=["red0"], category="green")], 5)
    assert len(answer.items) == 4 and "4 of 5" in answer.notes[-1]


def _request(**values):
    from recbole_sigma.recommend.answers import Request

    return Request(**values)


def test_a_batch_gives_the_lists_of_its_requests(recommender):
    requests = [
        _request(user="u1"),
        _request(history=["red0"], task="Category", slot="blue"),
        _request(user="u7"),
    ]
    together = recommender.answer(requests, 3)
    for request, answer in zip(requests, together):
        (alone,) = recommender.answer([request], 3)
        assert [row.item for row in alone.items] == [row.item for row in answer.items]
    assert recommender.answer([], 3) == []


def test_free_text_is_read_and_the_model_gets_the_wording_of_training(recommender):
    (answer,) = recommender.answer(
        [_request(history=["red0"], instruction="anything from the green category")], 3
    )
    assert answer.task == "Category"
    assert answer.instruction == "Recommend an item from the category: green"
    assert {row.item[:5] for row in answer.items} == {"green"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"history": ["the red thing"]}, "fits 4 items: the red thing 0 [red0]"),
        ({"history": ["the rad thing 0"]}, "no item is called.*nearest: the red thing 0"),
        ({"history": [" "]}, "an entry is empty"),
        ({"history": ["x" * 501]}, "501 characters"),
        ({"history": []}, "it is empty"),
        ({}, "it is empty"),
        ({"history": "red0"}, "not one text"),
        ({"user": "u333"}, "no user 'u333'; nearest"),
        ({"history": ["red0"], "instruction": "x" * 10_000}, "10000 characters"),
        ({"history": ["red0"], "instruction": " "}, "instruction: it is empty"),
        ({"history": ["red0"], "task": "Categry"}, "nearest: Category"),
        ({"history": ["red0"], "task": "Category"}, "needs one: its category"),
        ({"history": ["red0"], "task": "Category", "slot": "gren"}, "knows no 'gren'; nearest: green"),
        ({"history": ["red0"], "task": "JustForYou", "slot": "red"}, "has none"),
        ({"history": ["red0"], "slot": "red"}, "name the task"),
        ({"history": ["red0"], "category": "gren"}, "nearest: green"),
        ({"history": ["red0"], "k": 0}, "k: give a number from 1 to 16"),
        ({"history": ["red0"], "k": 17}, "k: give a number from 1 to 16"),
    ],
)
def test_mistakes_get_one_sentence(recommender, values, sentence):
    with pytest.raises(UserError, match=sentence.replace("[", r"\[").replace("]", r"\]")) as error:
        recommender.recommend(**values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_titles():
    titles = Titles(["", "1", "2", "3"], ["", "Toy Story", "Usual Suspects, The", "Toy Story"])
    assert titles.find("usual suspects") == 2 and titles.find("3") == 3
    with pytest.raises(UserError, match="fits 2 items"):
        titles.find("toy story")
    assert split_history("a, b; c") == ["a, b", "c"]


def command(chosen_run, *words):
    return ["recommend", f"--checkpoint={chosen_run['checkpoint']}", *words]


def test_the_command_prints_a_table_or_json(chosen_run, capsys):
    words = ["--history=the red thing 0; blue1", "--task=Category", "--slot=red", "--k=3"]
    assert main(command(chosen_run, *words)) == 0
    table = capsys.readouterr().out
    assert "task: Category" in table and "the " in table and "prefix" in table
    assert main(command(chosen_run, "--user=u2", "--k", "2", "--format=json", "--filter=category=blue")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["item"][:4] for row in answer["items"]] == ["blue", "blue"]


def test_the_batch_form_writes_a_line_per_user(chosen_run, tmp_path, capsys):
    users = tmp_path / "users.jsonl"
    users.write_text('u1\n\n{"user": "u2"}\n{"history": ["red0"], "instruction": "something new"}\n')
    out = tmp_path / "deep" / "lists.jsonl"
    assert main(command(chosen_run, f"--users_file={users}", f"--output={out}", "--k=2")) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["user"] for line in lines] == ["u1", "u2", None] and all(
        len(line["items"]) == 2 for line in lines
    )
    assert "3 users in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--k=0"], "--k: give a whole number of at least 1"),
        (["--k=ten"], "--k: give a whole number"),
        (["--format=xml"], "--format must be table or json"),
        (["--filter=colour=red"], "is no filter"),
        (["--histori=red0"], "nearest: history"),
        (["--history=nonsense entirely"], "no item is called"),
        (["--history=;"], "it is empty"),
        (["--dataset=ml-100k", "--history=red0"], "was written for dataset 'chosen', not 'ml-100k'"),
        ([], "needs --history"),
        (["--users_file=none.txt"], "cannot be read"),
        (["--model=SIGMA"], "does not belong"),
    ],
)
def test_mistakes_on_the_command_line_write_nothing(chosen_run, scratch, capsys, words, sentence):
    before = sorted(scratch.rglob("*"))
    named = not words or any(word.startswith(("--history", "--users_file")) for word in words)
    assert main(command(chosen_run, *([] if named else ["--history=red0"]), *words)) == 2
    out = capsys.readouterr()
    assert sentence in out.err and not out.out and "Traceback" not in out.err
    assert sorted(scratch.rglob("*")) == before


def test_bad_lines_of_a_users_file_are_named(chosen_run, tmp_path, capsys):
    users = tmp_path / "users.jsonl"
    for text, sentence in (
        ('u1\n{"user": \n', "users.jsonl:2 is no JSON"),
        ('{"usr": "u1"}\n', "users.jsonl:1 has the unknown key 'usr'; nearest: user"),
        ('{"history": "red0"}\n', "users.jsonl:1: history must be a list"),
        ("\n", "holds no user"),
        ("u1\nu2\nnobody\n", "users.jsonl:3: user: chosen has no user 'nobody'"),
    ):
        users.write_text(text)
        assert main(command(chosen_run, f"--users_file={users}", f"--output={tmp_path / 'out.jsonl'}")) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "out.jsonl").exists()


def test_a_model_without_tasks_obeys_sentences_and_names_no_task(valid_chosen, tmp_path):
    from recbole_sigma.quick_start import run

    for model, what in (("SIGMA", "JustForYou alone"), ("WindowItemKNN", "reads no instructions")):
        values = {key: v for key, v in valid_chosen.items() if model == "SIGMA" or not key.startswith("task")}
        if model != "SIGMA":
            values = {
                k: v
                for k, v in values.items()
                if k.split("_")[0] not in ("grounding", "tokenizer", "sigma", "backbone")
            }
        else:
            values |= {"tasks": ["JustForYou"]}
        result = run(model, "chosen", config_dict={**values, "epochs": 1})
        recommender = Recommender.load(result["checkpoint"])
        assert len(recommender.recommend(history=["red0"], k=3)) == 3
        with pytest.raises(UserError, match=what):
            recommender.recommend(history=["red0"], task="Category", slot="red")
        found = recommender.recommend(history=["red0"], instruction="green, please", k=3)
        assert {row.item[:5] for row in found} == {"green"}


def test_the_verb_tasks(chosen, capsys, tmp_path):
    words = [f"--{key}={chosen[key]}" for key in ("data_path", "task_dir", "category_field", "log_dir")]
    words += ["--load_col={inter: [user_id, item_id, timestamp], item: [item_id, title, kind]}"]
    words += ["--text_fields=[title, kind]", "--topk=[1, 4]", "--valid_metric=NDCG@4"]
    words += ["--eval_args={split: {RS: [0.8, 0.05, 0.15]}, order: TO, group_by: none}"]
    assert main(["tasks", "--dataset=chosen", *words]) == 0
    text = capsys.readouterr().out
    assert "Season is off on chosen" in text and "Category: training prompts" in text
    assert "-> the " in text and main(["tasks", "--dataset=chosen", "--seeds=1"]) == 2


def test_the_verb_tasks_judges_a_checkpoint(chosen_run, capsys, tmp_path):
    out = tmp_path / "reports"
    words = [f"--checkpoint={chosen_run['checkpoint']}", f"--output={out}", "--quiet", "--modes=apf"]
    assert main(["tasks", *words]) == 0
    text = capsys.readouterr().out
    assert "wrong slot" in text and "hit@10[generalrec macro]" in text
    (file,) = out.glob("tasks-chosen-*.json")
    assert json.loads(file.read_text())["tasks"]["Category"]["lifts"]["wrong slot"]["low"] >= 0
    assert main(["tasks", f"--checkpoint={chosen_run['checkpoint']}", "--modes=best"]) == 2


def test_a_history_may_end_where_the_table_judged_it(tmp_path):
    """Before the validation event, before the test event, or with all events, which is said."""
    from recbole_sigma.quick_start import run

    root = tmp_path
    rows = [(u, f"i{(3 * u + s) % 9}", s) for u in range(1, 6) for s in range(6)]
    values = scenes.events_config(root / "data" / "small", rows, spare=3)
    result = run("WindowItemKNN", "small", config_dict={**values, "knn_last": 1, "knn_window": 1})
    own = {str(u): [i for user, i, _ in rows if user == u] for u in range(1, 6)}
    places = {}
    for until, events in ((None, 6), ("test", 5), ("valid", 4)):
        recommender = Recommender.load(result["checkpoint"], history_until=until)
        for user, items in own.items():
            (answer,) = recommender.answer([_request(user=user)], 9)
            (typed,) = recommender.answer([_request(history=items[:events])], 9)
            assert answer.items == typed.items
            said = [any("held out" in note for note in found.notes) for found in (answer, typed)]
            assert said == [until is None, False]
            if until == "test":
                listed = [row.item for row in answer.items]
                places[user] = listed.index(items[5]) + 1 if items[5] in listed else 0
    tokens = recommender.dataset.field2id_token["user_id"]
    test = result["test"]
    assert places == {
        str(tokens[user]): int(place) for user, place in zip(test.users, test.places, strict=True)
    }
    with pytest.raises(UserError, match="history_until must be one of valid, test"):
        Recommender.load(result["checkpoint"], history_until="train")


def test_whole_histories_are_read_whole_and_no_wider(tmp_path):
    """A list for a user is that of the table, beyond the 50 events that other models read."""
    from recbole_sigma.quick_start import run

    rng = np.random.default_rng(3)
    rows = [(u, f"i{i:03d}", s) for u in range(4) for s, i in enumerate(rng.permutation(90)[:70])]
    values = scenes.events_config(tmp_path / "data" / "small", rows, spare=3)
    result = run("HistoryEASE", "small", config_dict={**values, "topk": [20], "valid_metric": "NDCG@20"})
    recommender = Recommender.load(result["checkpoint"], history_until="test")
    tokens = recommender.dataset.field2id_token
    judged = result["test"]
    for user, target, place in zip(judged.users, judged.targets, judged.places, strict=True):
        (answer,) = recommender.answer([_request(user=str(tokens["user_id"][user]))], 20)
        listed = [row.item for row in answer.items]
        name = str(tokens["item_id"][target])
        assert (listed.index(name) + 1 if name in listed else 0) == place
    batch = recommender.maker.batch(
        [Row(user=1, items=list(range(1, 61)), text="", forbidden=np.zeros(94, bool))]
    )
    assert batch["item_id_list"].shape == (1, 60)
