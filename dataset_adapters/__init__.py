"""Converters from raw public recommendation files to RecBole atomic files.

``python -m dataset_adapters list`` names them, ``describe NAME`` says what one reads and writes, and
``convert NAME`` runs it. The package stands alone: it imports neither torch nor RecBole, reads local files
only and never loads a pickle.
"""

from __future__ import annotations
