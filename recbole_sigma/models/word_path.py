"""A straight path from the words of an instruction to the query that the catalogue is searched with."""

from __future__ import annotations

from torch import Tensor, nn

# A word is in few labels, and its gradient is noisy: at 1 its vector grows several times too slowly.
STEP = 2.0


class WordPath(nn.Module):
    """Every word of an instruction adds a vector of its own to the scaled query (ours).

    P(item | history, words) is proportional to P(item | history) exp(<words, item>): the history says what
    the user likes, the words what is asked for. Without this path a trunk that is trained from scratch on
    some ten thousand labels does not find the slot in the instruction at all, because its words reach the
    query through layers that the histories shape. Here a word starts as nothing and learns directly which
    items it calls for; the trunk adds what depends on the history. Words that training never saw stay
    nothing, so an unknown wording is read by the words that are known.

    Args:
        vocabulary: number of token ids.
        d_model: d.
        pad: id of the padding token.
    """

    def __init__(self, vocabulary: int, d_model: int, pad: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, d_model, padding_idx=pad)
        nn.init.zeros_(self.words.weight)
        self.scale = STEP * d_model**0.5

    def forward(self, text: Tensor) -> Tensor:
        """What instructions add.

        Args:
            text: int64 [..., I], padded with the padding token.

        Returns:
            float [..., d].
        """
        return self.scale * self.words(text).sum(dim=-2)
