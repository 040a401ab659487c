"""Masks of packed rows against a token-by-token definition, and the trunk's states against unpacked
prompts.
"""

import pytest
import torch

from recbole_sigma.language.backbone import build_backbone, hidden_states
from recbole_sigma.models.sigma.trunk import RowLayout, branch_allowed, branch_positions, history_allowed
from recbole_sigma.values import UserError
from tests.arithmetic import STATES

PAD = 0


def describe(layout, profile, items, length, after, instruction, tail):
    """(kind, item or branch, step, real) of every column of one row, by the definition."""
    columns = [("profile", -1, i, profile[i] != PAD) for i in range(layout.profile)]
    columns += [("item", t, s, t < length) for t in range(items) for s in range(layout.slot)]
    for m in range(len(after)):
        columns += [("branch", m, i, instruction[m][i] != PAD) for i in range(layout.instruction)]
        columns += [("branch", m, layout.instruction + i, True) for i in range(tail)]
    return columns


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_attention_equals_the_definition(prefix):
    layout = RowLayout(profile=3, prefix=prefix, instruction=4)
    profile = torch.tensor([[0, 5, 6], [7, 5, 6]])
    instruction = torch.tensor([[[0, 8, 9, 9], [8, 8, 9, 9]], [[8, 9, 9, 9], [0, 0, 9, 9]]])
    length, after = torch.tensor([4, 2]), torch.tensor([[0, 2], [0, 0]])
    tail = prefix
    history = history_allowed(profile != PAD, length, 4, layout)
    allowed = branch_allowed(history, profile != PAD, instruction != PAD, after, layout, tail)
    for b in range(2):
        columns = describe(
            layout, profile[b].tolist(), 4, length[b], after[b].tolist(), instruction[b].tolist(), tail
        )
        assert allowed.shape[1] == len(columns)
        for q, (kind, which, step, _) in enumerate(columns):
            for s, (other, where, place, real) in enumerate(columns):
                if q == s:
                    expected = True
                elif kind != "branch":
                    expected = real and other != "branch" and s < q
                elif other == "branch":
                    expected = real and where == which and place < step
                else:
                    expected = real and (other == "profile" or where <= after[b, which])
                assert allowed[b, q, s] == bool(expected), (b, q, s)


def test_labels_take_the_positions_of_the_next_item():
    layout = RowLayout(profile=3, prefix=2, instruction=4)
    positions = branch_positions(torch.tensor([[1]]), layout, tail=2)
    base = 3 + 2 * 3
    assert positions.tolist() == [[[base, base + 1, base + 2, base + 3, base, base + 1]]]


def test_states_of_a_branch_equal_those_of_a_prompt_that_stops_there():
    torch.manual_seed(0)
    layout = RowLayout(profile=2, prefix=1, instruction=3)
    model = build_backbone("scratch:tiny", 40, 64, 0.1).eval()
    embed = model.get_input_embeddings()
    slots = embed(torch.randint(3, 40, (1, 5 * layout.slot)))
    profile, text = torch.tensor([[3, 4]]), torch.tensor([[[0, 6, 7], [8, 9, 7]]])
    after = torch.tensor([[1, 3]])
    history = history_allowed(profile != PAD, torch.tensor([5]), 5, layout)
    allowed = branch_allowed(history, profile != PAD, text != PAD, after, layout, 0)
    rows = torch.cat([embed(profile), slots, embed(text).flatten(1, 2)], dim=1)
    width = layout.history_end(5)
    positions = torch.cat([torch.arange(width)[None], branch_positions(after, layout, 0).flatten(1)], dim=1)
    packed = hidden_states(model, rows, positions, allowed)[0, width:].reshape(2, 3, -1)
    for m in range(2):
        items = int(after[0, m]) + 1
        single = history_allowed(profile != PAD, torch.tensor([items]), items, layout)
        single = branch_allowed(
            single, profile != PAD, text[:, m : m + 1] != PAD, after[:, m : m + 1], layout, 0
        )
        prompt = torch.cat([embed(profile), slots[:, : items * layout.slot], embed(text[:, m])], dim=1)
        place = torch.cat(
            [
                torch.arange(layout.history_end(items))[None],
                branch_positions(after[:, m : m + 1], layout, 0).flatten(1),
            ],
            dim=1,
        )
        alone = hidden_states(model, prompt, place, single)[0, -3:]
        torch.testing.assert_close(packed[m, -1], alone[-1], **STATES)


def test_unknown_backbone_is_refused():
    with pytest.raises(UserError, match="scratch:tiny"):
        build_backbone("scratch:huge", 10, 10, 0.0)
