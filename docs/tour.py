"""One user, one item and one batch through the house, with the tensors that they become.

    python docs/tour.py

trains SIGMA for one epoch on the ml-100k inside RecBole (about a minute) and prints what docs/tour.md shows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_sigma.decoding.fusion import prefix_beam  # noqa: E402
from recbole_sigma.models.losses import hide  # noqa: E402
from recbole_sigma.models.sigma.trunk import Histories  # noqa: E402
from recbole_sigma.quick_start import build_model, build_trainer  # noqa: E402
from recbole_sigma.run.config import RunConfig  # noqa: E402
from recbole_sigma.run.loaders import load_data  # noqa: E402


def tour(dataset: str, values: dict[str, Any]) -> None:
    """Print the walk on a dataset that has item text."""
    torch.set_printoptions(precision=3, sci_mode=False, linewidth=110)
    config = RunConfig("SIGMA", dataset, config_dict={"state": "ERROR", "show_progress": False, **values})
    data = load_data(config, config.model_class)
    train = data.train._dataset
    model = build_model(config, config.model_class, data.train)
    texts = [str(token) for token in train.field2id_token[train.iid_field]]
    names = titles(train, config) or texts

    section("1. A user's events, in exact order of time")
    users, items = train.train_events().sequences()
    user = int(users[0])
    own = items[users == user]
    print(f"user {train.field2id_token[train.uid_field][user]}: {len(own)} train events, the first three:")
    print("  " + "; ".join(f"{int(item)} = {names[int(item)]}" for item in own[:3]))

    section("2. A packed training row")
    batch = next(iter(data.train))
    print(
        f"a batch of {len(batch)} windows; the first holds {int(batch['item_length'][0])} items and a target"
    )
    print("  item_id_list", tuple(batch["item_id_list"].shape), batch["item_id_list"][0, :6].tolist(), "...")
    print("  item_id     ", tuple(batch["item_id"].shape), int(batch["item_id"][0]))

    section("3. An item: text, vectors, semantic ID, token")
    item, prepared = int(own[0]), model.prepared
    print(f"item {item} = {names[item]}")
    print("  grounded text vector", tuple(prepared.vectors.text.shape), prepared.vectors.text[item, :4])
    print("  teacher vector      ", tuple(prepared.vectors.collaborative.shape))
    print("  semantic ID         ", prepared.codes.codes[item].tolist(), "codebooks", prepared.codes.sizes)
    table = model.item_table()
    tokens = table.tokens
    print("  item token          ", tuple(tokens.shape), tokens[item, :4].detach())
    catalogue = model.objective.catalogue
    prefix = int(catalogue.prefix[item])
    mates = catalogue.order[catalogue.start[prefix] : catalogue.start[prefix + 1]]
    print(f"  prefix {prefix} of {catalogue.n_prefixes} holds {len(mates)} items, such as "
          + "; ".join(names[int(mate)] for mate in mates[:3]))  # fmt: skip

    section("4. A batch in the trunk")
    packed = model.packed_rows(batch)
    histories = Histories(packed.users, packed.items, packed.length, packed.items)
    torch.manual_seed(0)
    draw = model.branches.draw(packed.first, packed.length)
    branches = None if draw is None else model.branches.of(draw, packed.items)
    rows, positions, allowed, width = model.trunk._assemble(histories, tokens, branches)
    slots, ends, start = model.trunk.packed(histories, tokens, branches)
    layout = model.trunk.layout
    print(f"  profile {layout.profile}, {layout.slot} position(s) per item, instruction {layout.instruction}")
    print("  embeddings", tuple(rows.shape), "of which the history takes", width)
    print("  who may attend to whom", tuple(allowed.shape))
    print("  states of the items", tuple(slots.shape), "of the instructions", tuple(ends.shape))

    section("5. The loss")
    torch.manual_seed(0)
    parts = model.calculate_loss(batch)
    losses = zip(model.loss_names, parts, strict=True)
    print("  " + ", ".join(f"{name} {part.item():.3f}" for name, part in losses))
    print(f"  {packed.passes.targets} predictions in the histories of this batch")

    section("6. A list in three steps, after one epoch")
    trainer = build_trainer(config, model)
    trainer.fit(data.train, data.valid, saved=False, verbose=False)
    model.eval()
    rows_of_test = next(iter(data.test))[0][:1]
    seen = (torch.zeros(0, dtype=torch.int64),) * 2
    with torch.inference_mode():
        table = model.item_table()
        prompt = model._prompt(rows_of_test, rows_of_test["item_length"], table)
        print("  prompt: context", tuple(prompt.context.shape), "positions", prompt.readable.shape[1])
        logits = hide(model.objective.queries(prompt.context, prompt.words) @ table.scored.T, seen)
        share = logits.log_softmax(1)
        mass = torch.zeros(1, catalogue.n_prefixes).index_add_(1, catalogue.prefix[1:], share[:, 1:].exp())
        best, score = prefix_beam(mass.log(), catalogue, 3)
        found = zip(best[0].tolist(), score[0].exp().tolist(), strict=True)
        print("  step 1, the best prefixes:", ", ".join(f"{number} ({share:.2f})" for number, share in found))
        ranked = model.rank(rows_of_test, 5)
    print("  steps 2 and 3, the best items:")
    for item, value in zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True):
        print(f"    log P {value:.2f}  prefix {int(catalogue.prefix[item]):>2}  {names[item]}")

    section("7. The judge")
    judgement = trainer.judge.judge(model, data.test)
    print(f"  {len(judgement.places)} users, {int((judgement.places > 0).sum())} targets in their lists")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in list(judgement.metrics.items())[:8]))


def titles(dataset: Any, config: Any) -> list[str]:
    """The first text field of every item, in words."""
    from recbole_sigma.preparation.fields import item_texts

    return list(item_texts(dataset, config["text_fields"][:1]))


def section(title: str) -> None:
    """A heading."""
    print(f"\n{title}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tour(
            "ml-100k",
            {"epochs": 1, "seed": 2024, "checkpoint_dir": folder, "artifact_dir": folder, "log_dir": folder},
        )
