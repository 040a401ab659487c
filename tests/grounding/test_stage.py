"""Views, vector files and the retrieval report, against brute force and planted answers."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_sigma.grounding.alignment import AlignmentOptions
from recbole_sigma.grounding.ground import (
    GroundingOptions,
    Sources,
    alignment_report,
    ground_items,
    mine_views,
    raw_text_vectors,
)
from recbole_sigma.grounding.retrieval import hold_out, partner_recall
from recbole_sigma.grounding.vector_file import read_image_vectors, store_vectors, stored_vectors
from recbole_sigma.grounding.views import semantic_view, visual_view
from recbole_sigma.values import UserError


def test_semantic_pairs_share_a_phrase_and_a_category():
    texts = ["", "red running shoe 12", "blue running shoe", "running shoe laces", "steel coffee mill", "mug"]
    leaves = ["", "a", "a", "b", "b", ""]
    view = semantic_view(texts, leaves, 20, seed=0, max_share=1.0)
    assert {frozenset(pair) for pair in zip(view.left.tolist(), view.right.tolist())} == {frozenset({1, 2})}
    loose = semantic_view(texts, [], 20, seed=0, max_share=1.0)
    assert {frozenset(p) for p in zip(loose.left.tolist(), loose.right.tolist())} == {
        frozenset({1, 2}),
        frozenset({1, 3}),
        frozenset({2, 3}),
    }
    assert len(semantic_view(["", "one", "two"], [], 4, seed=0)) == 0


def test_visual_neighbours_are_the_nearest_images():
    image = np.zeros((6, 2), dtype=np.float32)
    image[1:5] = [[1, 0], [0.9, 0.44], [0, 1], [0.1, 0.99]]
    image /= np.maximum(np.linalg.norm(image, axis=1, keepdims=True), 1e-9)
    view = visual_view(image, 1)
    assert set(zip(view.left.tolist(), view.right.tolist())) == {(1, 2), (2, 1), (3, 4), (4, 3)}
    assert len(visual_view(np.zeros((3, 2), dtype=np.float32), 1)) == 0


def test_image_file_is_keyed_by_item_id(tmp_path):
    tokens = ["[PAD]", "x", "y", "z"]
    np.save(tmp_path / "v.npy", np.array([[0, 2.0], [3.0, 0], [1.0, 1.0]]))
    (tmp_path / "v.items.txt").write_text("z\nx\nunknown\n")
    found = read_image_vectors(tmp_path / "v.npy", tokens)
    np.testing.assert_allclose(found, [[0, 0], [1, 0], [0, 0], [0, 1]])

    def refuse(match):
        with pytest.raises(UserError, match=match):
            read_image_vectors(tmp_path / "v.npy", tokens)

    (tmp_path / "v.items.txt").write_text("z\nx\n")
    refuse("2 lines")
    (tmp_path / "v.items.txt").write_text("p\nq\nr\n")
    refuse("none of the 3 ids")
    (tmp_path / "v.items.txt").write_text("z\nx\nunknown\n")
    np.save(tmp_path / "v.npy", np.array([[0, np.nan], [3.0, 0], [1.0, 1.0]]))
    refuse("NaN or infinity in row 0 .item z")
    (tmp_path / "v.npy").write_bytes(b"nothing")
    refuse("no .npy array")
    (tmp_path / "v.npy").unlink()
    refuse("does not exist")


def test_vectors_are_stored_once_and_mapped(tmp_path, saved):
    path = tmp_path / "deep" / "text.npy"
    assert stored_vectors(path, 3) is None
    mapped = store_vectors(path, 3, iter([(np.array([2]), np.ones((1, 4), dtype=np.float32))]))
    assert isinstance(mapped, np.memmap) and mapped[2].sum() == 4 and not mapped[:2].any()
    assert [file.name for file in path.parent.iterdir()] == ["text.npy"]
    with pytest.raises(UserError, match="not float32 of 5 rows"):
        stored_vectors(path, 5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read.*delete"):
        stored_vectors(path, 3)
    path.unlink()
    options = GroundingOptions(text_encoder=f"causal-lm:{saved('gpt2')}", max_tokens=8)
    first = raw_text_vectors(["", "red", "blue thing"], options, path)
    stamp = path.stat().st_mtime_ns
    second = raw_text_vectors(["", "red", "blue thing"], options, path)
    assert (
        isinstance(second, np.memmap) and np.array_equal(first, second) and path.stat().st_mtime_ns == stamp
    )


def planted(seed=0, groups=6, size=16, users=150):
    """Users stay in a group of items; half of an item's words tell the group in one of two dialects."""
    rng = np.random.default_rng(seed)
    n = groups * size
    group = np.r_[-1, np.arange(n) % groups]
    # the dialects share no word, so that raw text sees two clusters per group
    texts = [""] + [f"d{(i // groups) % 2}g{g} noise{rng.integers(40)}" for i, g in enumerate(group[1:])]
    rows = []
    for user in range(users):
        own = np.flatnonzero(group == user % groups)
        rows += [(user, item) for item in rng.choice(own, 6, replace=False)]
    events = np.array(rows)
    return group, Sources(texts, {}), events[:, 0], events[:, 1]


OPTIONS = GroundingOptions(
    text_dim=24,
    teacher_dim=8,
    views=("collaborative",),
    alignment=AlignmentOptions(dim=16, hidden=16, steps=80, batch_pairs=32, dropout=0.1),
)


def test_nothing_held_out_is_seen():
    _, _, users, items = planted()
    held = hold_out(users, items, 97, window=3, seed=1)
    assert not np.isin(items[held.fit], held.cold).any()
    hidden = np.setdiff1d(np.unique(users), np.unique(users[held.fit]))
    assert len(hidden) >= 0.2 * 150
    warm = np.flatnonzero(np.diff(held.warm_partners.indptr))
    assert not np.isin(warm, held.cold).any()
    assert np.isin(np.flatnonzero(np.diff(held.cold_partners.indptr)), held.cold).all()


def test_recall_equals_brute_force():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = vectors[7] = 0
    partners = sp.random(30, 30, 0.2, random_state=1).tocsr()
    expected = []
    for item in range(30):
        answer = set(partners[item].indices.tolist())
        if answer:
            near = vectors @ vectors[item]
            near[[0, 7, item]] = -9
            top = set(np.argsort(-near)[:4].tolist())
            expected.append(len(top & answer) / min(4, len(answer)) if item not in (0, 7) else None)
    found, count = partner_recall(vectors, partners, k=4)
    known = [value for value in expected if value is not None]
    assert count == len(expected)
    assert abs(found * count - sum(known)) <= len(expected) - len(known) + 1e-9


def test_alignment_raises_recall_and_cold_items_gain():
    _, sources, users, items = planted()
    raw, aligned = alignment_report(users, items, sources, OPTIONS)
    assert (raw["variant"], aligned["variant"]) == ("raw text", "aligned")
    assert aligned["warm"] > 1.3 * raw["warm"] and aligned["cold"] > 1.1 * raw["cold"]
    assert aligned["warm_items"] > 50 and aligned["cold_items"] >= 9
    names = [
        row["variant"]
        for row in alignment_report(
            users,
            items,
            sources,
            replace(OPTIONS, alignment=replace(OPTIONS.alignment, steps=2)),
            each_view=True,
            ablations=True,
        )
    ]
    assert names[2:] == ["no distillation", "projection only", "view collaborative alone"]


def test_each_view_can_be_switched_off_and_named(tmp_path):
    group, sources, users, items = planted()
    labels = {"taxonomy": [""] + [f"c{g}" for g in group[1:]], "brand": [""] + ["b"] * 96}
    image = np.zeros((97, 4), dtype=np.float32)
    image[1:, 0] = 1
    whole = Sources(sources.texts, labels, image)
    every = replace(OPTIONS, views=("collaborative", "semantic", "taxonomy", "brand", "visual"))
    assert [view.name for view in mine_views(users, items, whole, every)] == list(every.views)
    for gone in every.views:
        rest = tuple(view for view in every.views if view != gone)
        found = mine_views(users, items, whole, replace(every, views=rest))
        assert [view.name for view in found] == list(rest)
    assert [v.name for v in mine_views(users, items, sources, every)] == ["collaborative", "semantic"]
    pairs = mine_views(users, items, sources, OPTIONS)[0]
    same = group[pairs.left] == group[pairs.right]
    assert len(pairs) and same.all()


def test_ablations_of_the_stage_differ_as_they_say():
    _, sources, users, items = planted()
    short = replace(OPTIONS, alignment=replace(OPTIONS.alignment, steps=3))
    raw, teacher, report = ground_items(users, items, sources, replace(short, align=False))
    np.testing.assert_array_equal(raw, raw_text_vectors(sources.texts, short))
    assert report["views"] == {} and report["text_items"] == 96
    full = ground_items(users, items, sources, short)
    assert full[2]["views"].keys() == {"collaborative"} and full[0].shape == (97, 16)
    again = ground_items(users, items, sources, short)
    np.testing.assert_array_equal(full[0], again[0])
    frozen = ground_items(users, items, sources, replace(short, train_encoder=False))
    no_kd = ground_items(
        users, items, sources, replace(short, alignment=replace(short.alignment, kd_weight=0.0))
    )
    for other in (frozen, no_kd):
        assert not np.allclose(other[0], full[0], atol=1e-4)
        np.testing.assert_array_equal(other[1], teacher)


@pytest.mark.parametrize(
    ("vectors", "names", "sentence"),
    [
        (np.array([["a"], ["b"]]), "i0\ni1\n", "holds <U1 of shape"),
        (np.array([[1j], [2]]), "i0\ni1\n", "holds complex128 of shape"),
        (np.array([[True], [False]]), "i0\ni1\n", "holds bool of shape"),
        (np.zeros((2, 0)), "i0\ni1\n", "save real numbers, one row per image"),
        (np.ones((2, 3)), "i0\ni0\n", r"v.items.txt:2 names item 'i0' again \(first in line 1\)"),
        (np.zeros((2, 3)), "i0\ni1\n", "are zero, so they tell nothing apart"),
        (np.full((2, 3), 1e-320), "i0\ni1\n", "are zero, so they tell nothing apart"),
    ],
)
def test_image_vectors_that_say_nothing_are_refused(vectors, names, sentence, tmp_path) -> None:
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.items.txt").write_text(names)
    with pytest.raises(UserError, match=sentence):
        read_image_vectors(tmp_path / "v.npy", ["[PAD]", "i0", "i1"])


def test_names_of_image_vectors_may_begin_with_a_byte_order_mark_and_must_be_text(tmp_path) -> None:
    np.save(tmp_path / "v.npy", np.eye(2))
    (tmp_path / "v.items.txt").write_bytes(b"\xef\xbb\xbfi0\r\ni1\r\n")
    assert read_image_vectors(tmp_path / "v.npy", ["[PAD]", "i0", "i1"])[1:].tolist() == np.eye(2).tolist()
    (tmp_path / "v.items.txt").write_bytes(b"\xff\n\xfe\n")
    with pytest.raises(UserError, match="v.items.txt is not UTF-8 text"):
        read_image_vectors(tmp_path / "v.npy", ["[PAD]", "i0", "i1"])
