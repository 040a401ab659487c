import numpy as np
import pytest

from recbole_sigma.grounding.ground import encode_texts
from recbole_sigma.grounding.tfidf import tfidf_svd
from recbole_sigma.values import UserError


def test_similar_titles_are_near_and_empty_ones_are_zero():
    texts = ["", "red running shoe", "blue running shoe", "coffee grinder", "steel coffee grinder", ""]
    vectors = tfidf_svd(texts, 3, seed=0)
    assert vectors.shape == (6, 3) and vectors.dtype == np.float32
    assert vectors[1] @ vectors[2] > vectors[1] @ vectors[3] + 0.3
    assert not vectors[0].any() and not vectors[5].any()


def test_width_is_kept_when_there_are_few_texts():
    assert tfidf_svd(["", "a b", "b c"], 64, seed=0).shape == (3, 64)


@pytest.mark.parametrize("texts", [[""], ["", "", "  "]])
def test_no_text_at_all_is_refused(texts):
    with pytest.raises(UserError, match="text_fields"):
        tfidf_svd(texts, 4, seed=0)


def test_unknown_encoder_is_refused():
    with pytest.raises(UserError, match="grounding_text_encoder"):
        encode_texts(["", "x"], "word2vec", 4, 0)
