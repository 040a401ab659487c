"""Which rows qualify: against brute force, with known answers, and without a look at held-out events."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.instructions.calendar import SEASONS
from recbole_sigma.instructions.fields import nodes, places, repeats
from recbole_sigma.instructions.rules import TaskOff, lift_table, qualify, tail_items, unseen_before
from recbole_sigma.instructions.samples import describe
from recbole_sigma.instructions.tasks import chosen_tasks, load_tasks
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.values import UserError
from tests.planted import DAY, SHOP_KINDS, shop_config, shop_tasks, write_shop, write_tasks


def kinds(material):
    return np.array([token.rstrip("0123456789") for token in material.tokens])[material.items]


def test_the_seven_shipped_tasks():
    tasks = load_tasks(properties_dir() / "tasks")
    assert set(tasks) == {"JustForYou", "Query", "Category", "Longtail", "Discover", "Season", "Holiday"}
    for task in tasks.values():
        assert len(task.templates) >= 5 and task.held_out not in task.templates and task.version >= 1
        if task.name != "JustForYou":
            assert task.minimum_test_rows == 300


def test_every_task_of_the_shop_is_built_and_counted(shop):
    tasks, train = shop()
    assert list(tasks.rows)[0] == "JustForYou" and len(tasks.rows) == 7 and not tasks.off
    rows = {row["task"]: row for row in describe(tasks)}
    assert rows["JustForYou"]["train"] == train.packer.predictions
    assert rows["JustForYou"]["test"] == len(np.unique(tasks.material.users))
    assert abs(sum(tasks.mixture().values()) - 1) < 1e-9
    for name in tasks.rows:
        for history, text, target in tasks.prompts(name):
            assert target and "{" not in text and len(history) <= 3


def test_category_is_the_second_node_of_the_target(shop):
    tasks, _ = shop()
    rows, m = tasks.rows["Category"], tasks.material
    assert [rows.values[i] for i in rows.slots[:, 0]] == kinds(m)[rows.ranks].tolist()
    for value in range(len(rows.values)):
        wanted = [bool(label) and label[0] == rows.values[value] for label in m.labels]
        np.testing.assert_array_equal(rows.match(value), wanted)
    assert nodes(("A", "B", "C"), 2) == ("B",) and nodes(("A", "B", "A"), 0) == ("A", "B")


def test_a_pseudo_query_matches_its_target_and_is_no_title(shop):
    tasks, _ = shop()
    rows, m = tasks.rows["Query"], tasks.material
    assert rows.kind == "pseudo" and len(rows.ranks)
    for row, rank in enumerate(rows.ranks.tolist()):
        item = m.items[rank]
        for column in rows.slots[row].tolist():
            assert rows.match(column)[item]
            assert rows.values[column] != m.words.titles[item].lower()


def test_a_typed_query_is_the_events_own(shop):
    tasks, _ = shop(query_field="query")
    rows, m = tasks.rows["Query"], tasks.material
    assert rows.kind == "typed" and rows.known == len(rows.values)
    assert [rows.values[i] for i in rows.slots[:, 0]] == [
        f"cheap {kind.lower()}" for kind in kinds(m)[rows.ranks]
    ]


def test_season_and_holiday_find_what_was_planted(shop):
    tasks, _ = shop()
    m = tasks.material
    rows = tasks.rows["Season"]
    found = set(zip(kinds(m)[rows.ranks], (SEASONS[i] for i in rows.slots[:, 0]), strict=True))
    assert {("Lawn", "summer"), ("Sledge", "winter")} <= found
    assert not found & {("Lawn", "winter"), ("Sledge", "summer")}
    rows = tasks.rows["Holiday"]
    names = {(kind, rows.values[i]) for kind, i in zip(kinds(m)[rows.ranks], rows.slots[:, 0], strict=True)}
    assert ("Gift", "Christmas") in names and ("Lamp", "Christmas") not in names


def test_discover_equals_brute_force(shop):
    tasks, _ = shop()
    m, rows = tasks.material, tasks.rows["Discover"]
    expected = []
    for rank in range(len(m.users)):
        before = [i for i in range(rank) if m.users[i] == m.users[rank]]
        seen = {m.labels[m.items[i]] for i in before[-50:]}
        if len(before) >= 5 and m.labels[m.items[rank]] not in seen:
            expected.append(rank)
    assert rows.ranks.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40), st.integers(1, 6))
def test_unseen_before_equals_brute_force(events, window):
    users = np.array([user for user, _ in events], dtype=np.int64)
    group = np.array([g for _, g in events], dtype=np.int64)
    fresh = unseen_before(users, group, places(users), window)
    for rank in range(len(events)):
        before = [group[i] for i in range(rank) if users[i] == users[rank]][-window:]
        assert fresh[rank] == (group[rank] not in before)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.floats(0.0, 1.0))
def test_the_head_is_the_smallest_set_that_covers_its_share(counts, share):
    counts = np.array([0, *counts])
    tail = tail_items(counts, share)
    head = (counts > 0) & ~tail
    total = counts.sum()
    assert counts[head].sum() >= share * total - 1e-9 and not tail[counts == 0].any()
    if head.sum() > 1:
        least = counts[head].min()
        assert counts[head].sum() - least < share * total + 1e-9
        assert counts[tail].max(initial=0) <= least


def test_lift_by_hand():
    table = np.array([[30, 10], [0, 10]])
    lift = lift_table(table, np.array([40, 10]), least_rows=20)
    np.testing.assert_allclose(lift[:, 0], [(31 / 32) / (41 / 52), (1 / 32) / (11 / 52)])
    assert (lift_table(table, np.array([40, 10]), least_rows=21)[:, 1] == 0).all()


def test_a_repeated_event_is_no_target():
    users, items = np.array([1, 1, 1, 2]), np.array([5, 5, 5, 5])
    assert repeats(users, items, np.array([0.0, 0.0, 1.0, 1.0])).tolist() == [False, True, False, False]


# --- off, with a sentence ---


@pytest.mark.parametrize(
    ("changes", "name", "sentence"),
    [
        ({"category_field": None}, "Category", "no category_field"),
        ({"category_field": None}, "Discover", "no category_field"),
        ({"task_lag_days": None}, "Season", "task_lag_days is unset"),
        ({"task_lag_days": None}, "Holiday", "task_lag_days is unset"),
    ],
)
def test_a_task_without_its_fields_is_off_with_a_sentence(shop, changes, name, sentence):
    tasks, _ = shop(**changes)
    assert name not in tasks.rows and sentence in tasks.off[name] and "\n" not in tasks.off[name]
    assert f"{name} is off on shop" in tasks.off[name]


def test_seasons_need_dates(shop):
    tasks, _ = shop()
    undated = replace(tasks.material, dated=False)
    for name in ("Season", "Holiday"):
        with pytest.raises(TaskOff, match="no dates"):
            qualify(tasks.rows[name].task, undated)


def test_support_and_years_below_the_minimum(shop_root, tmp_path):
    folder = write_tasks(tmp_path / "task_files")
    for old, new, file in (
        ("minimum_support: 1\n", "minimum_support: 100000\n", "longtail.yaml"),
        ("least_years: 2.0", "least_years: 50", "season.yaml"),
    ):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
    tasks, _ = shop_tasks(shop_root, files=folder)
    assert "minimum_support is 100000" in tasks.off["Longtail"]
    assert "years" in tasks.off["Season"] and "drift" in tasks.off["Season"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_fields": ["sales_rank"]}, "tells the future"),
        ({"brand_field": "sales_rank"}, "tells the future"),
        ({"category_field": "catgories"}, "no loaded column 'catgories'"),
        ({"query_field": "qery"}, "no loaded column 'qery'"),
        ({"query_field": "timestamp"}, "not of type token"),
        ({"tasks": ["Qery"]}, "nearest: Query"),
    ],
)
def test_unusable_roles_and_names_get_one_sentence(shop, changes, message):
    with pytest.raises(UserError, match=message):
        shop(**changes)


def test_just_for_you_comes_first_and_always(tmp_path):
    folder = write_tasks(tmp_path / "task_files")
    assert [task.name for task in chosen_tasks(["Query"], folder)] == ["JustForYou", "Query"]
    assert [task.name for task in chosen_tasks("Season", folder)] == ["JustForYou", "Season"]
    (folder / "just_for_you.yaml").unlink()
    with pytest.raises(UserError, match="no task named JustForYou"):
        chosen_tasks(["Query"], folder)


# --- no leak: R1 to R5 and R10 ---


def training_view(tasks):
    """Everything that training can see of the tasks, by original ids and texts."""
    m, view = tasks.material, {"texts": tasks.texts(), "corpus": tasks.corpus(), "mixture": tasks.mixture()}
    for name, rows in tasks.rows.items():
        own = np.flatnonzero(m.part[rows.ranks] == 0)
        slots = [[rows.values[i] for i in rows.slots[row].tolist()] for row in own]
        events = [(int(m.users[r]), int(m.place[r]), m.tokens[m.items[r]]) for r in rows.ranks[own].tolist()]
        view[name] = sorted(zip(events, slots, strict=True))
    view["off"] = dict(tasks.off)
    return view


def altered(tmp_path, change, **changes):
    root = tmp_path / "altered"
    write_shop(root / "shop", change=change)
    return shop_tasks(root, files=write_tasks(tmp_path / "task_files"), **changes)[0]


def held_out_items(user, step, item, time, query):
    return (user, step, f"Lamp{(user + step) % 8}" if step >= 12 else item, time, query)


def held_out_times(user, step, item, time, query):
    return (user, step, item, time + (step - 11) * 400 * DAY if step >= 12 else time, query)


def held_out_queries(user, step, item, time, query):
    return (user, step, item, time, f"secret {user} {step}" if step >= 12 else query)


@pytest.mark.parametrize("field", [None, "query"])
@pytest.mark.parametrize("change", [held_out_items, held_out_times, held_out_queries])
def test_altering_held_out_events_changes_nothing_that_training_sees(shop, tmp_path, change, field):
    before, _ = shop(query_field=field)
    after = altered(tmp_path, change, query_field=field)
    assert training_view(before) == training_view(after)


@pytest.mark.parametrize("name", ["Category", "Query"])
def test_held_out_events_cannot_make_a_kind_large_enough_to_be_a_slot(tmp_path, name):
    """A single item of the kind Odd is trained; its sisters are met in held-out events only."""

    def one(user, step, item, time, query):
        return (user, step, "Odd0" if step == 3 and user < 20 else item, time, query)

    def many(user, step, item, time, query):
        return (
            user,
            step,
            f"Odd{user % 8}" if step >= 12 else one(user, step, item, time, query)[2],
            time,
            query,
        )

    views = []
    for number, change in enumerate((one, many)):
        root = tmp_path / str(number)
        write_shop(root / "shop", change, (*SHOP_KINDS, "Odd"))
        tasks, _ = shop_tasks(root, files=write_tasks(tmp_path / "task_files"))
        assert name in tasks.rows
        views.append(training_view(tasks))
    assert views[0] == views[1]
    assert not any("Odd" in text.title() for text in views[0]["texts"])


def test_the_leak_test_can_fail(shop, tmp_path):
    def train_event(user, step, item, time, query):
        return (user, step, "Lamp7" if step == 3 else item, time, query)

    before, after = training_view(shop()[0]), training_view(altered(tmp_path, train_event))
    assert all(before[name] != after[name] for name in ("Category", "Query", "Longtail", "JustForYou"))


def test_held_out_queries_reach_evaluation_but_no_text_of_training(tmp_path):
    tasks = altered(tmp_path, held_out_queries, query_field="query")
    rows = tasks.rows["Query"]
    assert any(value.startswith("secret") for value in rows.values[rows.known :])
    assert not any("secret" in text for text in [*tasks.texts(), *tasks.corpus(), *rows.values[: rows.known]])


def test_the_config_helper_names_a_real_key():
    assert set(shop_config("x")) >= {"tasks", "task_lag_days"}
