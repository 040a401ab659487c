"""Shipped property files: what is read of them without a YAML parser is what YAML reads."""

from recbole_sigma.settings import recipes
from recbole_sigma.settings.reading import load_yaml


def test_keys_of_shipped_files_are_those_that_yaml_reads() -> None:
    for root in (recipes.recbole_properties(), recipes.properties_dir()):
        for path in root.rglob("*.yaml"):
            if path.name not in ("url.yaml", "kg_url.yaml"):
                found = set(recipes._TOP_KEY.findall(path.read_text(encoding="utf-8")))
                assert found == set(load_yaml(path)), path
