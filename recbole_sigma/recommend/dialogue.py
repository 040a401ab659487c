"""A `Conversation` as a system that simulated people talk to (`evaluation.tasks.dialogue_rubric`)."""

from __future__ import annotations

import torch

from recbole_sigma.evaluation.tasks.dialogue_rubric import Reply
from recbole_sigma.evaluation.tasks.dialogue_user import Person, Said, people
from recbole_sigma.recommend.conversation import Conversation
from recbole_sigma.recommend.recommender import Recommender


class Talker:
    """Starts a conversation with every person.

    Args:
        recommender: the loaded model.
        length: items of a list.
    """

    def __init__(self, recommender: Recommender, length: int) -> None:
        self.recommender, self.length = recommender, length

    def start(self, person: Person) -> None:
        """See `System`."""
        tokens = [self.recommender.material.tokens[item] for item in person.history]
        self.talk = Conversation(self.recommender, history=tokens, k=self.length)

    def say(self, said: Said) -> Reply:
        """See `System`; reads the sentence alone."""
        turn = self.talk.say(said.sentence)
        return Reply([self.recommender.number(row.item) for row in turn.answer.items], turn.question)


def drawn_people(recommender: Recommender, most: int, seed: int = 0) -> list[Person]:
    """People who want the held-out item of a test row, with the history of the evaluation."""
    data = recommender.maker.loader._dataset
    rows = data.inter_feat
    lists, lengths = rows[data.item_id_list_field], rows[data.item_list_length_field]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: 20 * most]
    histories = [lists[row, : int(lengths[row])].tolist() for row in order.tolist()]
    targets = rows[data.iid_field][order].tolist()
    return people(recommender.lexicon, histories, targets, most, seed)
