"""What GateSID and SORT share: a catalogue is scored in blocks of candidates."""

import pytest
import torch

from recbole_sigma.models import gate_sid, sort
from tests import planted as scenes
from tests.arithmetic import SCORES
from tests.planted import tiny


@pytest.mark.parametrize(
    ("name", "module", "blocks"),
    [
        *(
            (f"GateSID {mode}", gate_sid, {"_BLOCK": 7})
            for mode in ("learned", "hand", "id", "half", "sid", "concat")
        ),
        ("SORT", sort, {"CANDIDATES": 7, "_ROWS": 2}),
    ],
)
def test_a_catalogue_in_blocks_equals_one_candidate_at_a_time(planted, monkeypatch, name, module, blocks):
    name, *mode = name.split()
    own = {"gate_mode": mode[0]} if mode else {}
    _, data, model = scenes.build(name, "planted", {**planted, **tiny(name), **own})
    model.eval()
    if name == "GateSID":
        torch.nn.init.normal_(model.ages.weight)
    batch = scenes.one_batch(data.test)[:9]
    with torch.no_grad():
        whole = model.full_sort_predict(batch)
        for key, size in blocks.items():
            monkeypatch.setattr(module, key, size)
        torch.testing.assert_close(model.full_sort_predict(batch), whole, **SCORES)
        for item in (1, 5, model.n_items - 1):
            batch.interaction[model.ITEM_ID] = torch.full((9,), item)
            torch.testing.assert_close(model.predict(batch), whole[:, item], **SCORES)
