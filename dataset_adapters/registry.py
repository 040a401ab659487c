"""The adapters by name."""

from __future__ import annotations

from dataset_adapters.amazon import AMAZON2014, AMAZON2018, AMAZON2023
from dataset_adapters.bestbuy import BESTBUY
from dataset_adapters.clicks import AVAZU, CRITEO, FRAPPE, OBD
from dataset_adapters.exposure import COAT, YAHOO
from dataset_adapters.job import Adapter
from dataset_adapters.labelled import LabelledAdapter
from dataset_adapters.lastfm import LASTFM
from dataset_adapters.minionerec import MINIONEREC
from dataset_adapters.movielens import MOVIELENS
from dataset_adapters.s3rec import S3REC
from dataset_adapters.table import TABLE
from dataset_adapters.yelp import YELP

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        MOVIELENS,
        AMAZON2014,
        AMAZON2018,
        AMAZON2023,
        S3REC,
        MINIONEREC,
        YELP,
        LASTFM,
        BESTBUY,
        TABLE,
    )
}

LABELLED: dict[str, LabelledAdapter] = {
    adapter.name: adapter for adapter in (YAHOO, COAT, CRITEO, AVAZU, FRAPPE, OBD)
}
"""Sources of labelled rows, for models that are judged by labels."""
