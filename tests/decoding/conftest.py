import pytest

from tests.decoding.random_catalogue import FAMILIES, RandomCatalogue, clear_model


@pytest.fixture
def shop_factory():
    return RandomCatalogue


@pytest.fixture(scope="session")
def built_shop():
    return RandomCatalogue(300)


@pytest.fixture
def shop(built_shop):
    """The shop with its generator set back, so that a test's prompts do not depend on the tests before it."""
    built_shop.generator.manual_seed(1)
    return built_shop


@pytest.fixture(scope="session")
def models(built_shop):
    return {family: clear_model(family, built_shop.vocabulary) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request, models):
    return models[request.param]


@pytest.fixture
def make_model():
    return clear_model
