"""The text of ``--help``."""

from __future__ import annotations

from recbole_sigma.commands.words import Parser
from recbole_sigma.settings.describe import help_of_model

DESCRIPTION = "Generative recommendation for RecBole: train, compare and use models under one protocol."
EPILOG = """\
examples
  {program} demo
  {program} --model=SIGMA --dataset=ml-100k
  {program} --model=SIGMA --dataset=my-data --data_path=dataset/ --config_files="my.yaml"
  {program} benchmark --models=Pop,WindowItemKNN,PackedSASRec,SIGMA --dataset=ml-100k --seeds=2024,2025,2026
  {program} benchmark --models=list
  {program} recommend --checkpoint=saved/FILE --history="Toy Story; Aladdin" --instruction="something new"
  {program} benchmark --help
  {program} --help --model=SIGMA

Every key of RecBole works as --key=value or --key value, in a file, or in a dictionary. Order of precedence:
RecBole's and our defaults < config files < dictionary < command line. A key that nothing declares is refused.
"""


def help_text(top: Parser, verb: Parser | None, model: str | None) -> str:
    """The help of a verb; of the whole command line with the keys of every model where no verb is named.

    Args:
        top: the whole command line.
        verb: the verb asked about, None for the whole.
        model: a model whose keys are listed too.
    """
    text = (verb or top).format_help()
    return f"{text}\n{help_of_model(model)}" if verb is None or model else text
