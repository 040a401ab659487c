"""One test per line of the seam: each fails when a RecBole release moves the hook."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pickle
import subprocess
import sys

import pytest

from recbole_sigma import _compat, plugin
from recbole_sigma.models import registry
from recbole_sigma.values import UserError


def test_the_tested_recbole_is_installed() -> None:
    import recbole

    assert recbole.__version__ == _compat.TESTED_RECBOLE


def test_get_model_looks_into_sys_modules() -> None:
    from recbole.utils import get_model

    for name in registry.available_models():
        assert get_model(name).__name__ == name
        assert get_model(name).__module__ == registry.MODELS[name].module


def test_get_model_still_asks_the_families_that_the_alias_uses() -> None:
    from recbole.utils import get_model

    source = inspect.getsource(get_model)
    for family in (*registry.RECBOLE_FAMILIES, "exlib_recommender"):
        assert f'"{family}"' in source
    assert registry.RECBOLE_FAMILIES[0] == "general_recommender"  # adopt() relies on its being asked first


def test_alias_modules_have_a_spec() -> None:
    for name in registry.available_models():
        alias = f"recbole.model.{registry.MODELS[name].family}.{name.lower()}"
        assert importlib.util.find_spec(alias) is not None
        with pytest.raises(AttributeError):
            _ = importlib.import_module(alias).nothing


def test_create_dataset_asks_the_dataset_module() -> None:
    import recbole.data.dataset as module
    from recbole.data.utils import create_dataset

    from recbole_sigma.data.events import ExactTime

    assert 'config["model"] + "Dataset"' in inspect.getsource(create_dataset)
    for name in registry.available_models():
        assert issubclass(getattr(module, name + "Dataset"), ExactTime)
    assert not hasattr(module, "SASRecDataset")  # stock models keep RecBole's dataset
    assert not hasattr(module, "NothingDataset")


def test_get_trainer_asks_the_trainer_module() -> None:
    import recbole.trainer as module
    from recbole.utils import ModelType, get_trainer

    from recbole_sigma.run.trainer import RunTrainer

    for name in registry.available_models():
        assert issubclass(get_trainer(ModelType.SEQUENTIAL, name), RunTrainer)
    assert get_trainer(ModelType.GENERAL, "BPR") is module.Trainer
    assert get_trainer(ModelType.TRADITIONAL, "Pop") is module.TraditionalTrainer


def test_config_methods_that_are_wrapped_exist_with_their_arguments() -> None:
    from recbole.config import Config

    stock = Config._load_internal_config_dict.stock
    assert list(inspect.signature(stock).parameters) == ["self", "model", "model_class", "dataset"]
    source = inspect.getsource(stock)
    places = [
        source.index(word)
        for word in ("overall_init_file,", "model_init_file,", "sample_init_file,", "dataset_init_file,")
    ]
    assert places == sorted(places)
    assert "self._update_internal_config_dict(file)" in source
    assert list(inspect.signature(Config._update_internal_config_dict).parameters) == ["self", "file"]
    for name in (
        "_load_config_files",
        "_load_variable_config_dict",
        "_load_cmd_line",
        "_build_yaml_loader",
        "_get_final_config_dict",
        "_init_parameters_category",
        "_convert_config_dict",
    ):
        assert callable(getattr(Config, name))


def test_metric_tables_are_shared_objects_and_hold_ours() -> None:
    import recbole.config.configurator as configurator
    import recbole.evaluator.evaluator as evaluator
    import recbole.evaluator.register as register

    assert configurator.metric_types is register.metric_types
    assert configurator.smaller_metrics is register.smaller_metrics
    assert evaluator.metrics_dict is register.metrics_dict
    for name in ("validity", "duplicate", "shortlist_rate", "prefix_survival"):
        assert (
            name in register.metrics_dict
            and name in register.metric_information
            and name in register.metric_types
        )
    assert "duplicate" in register.smaller_metrics and "validity" not in register.smaller_metrics


def test_quick_start_is_hooked() -> None:
    import recbole.quick_start as package
    import recbole.quick_start.quick_start as module

    for name in ("run_recboles", "load_data_and_model"):
        assert getattr(package, name) is getattr(module, name)
        assert getattr(module, name).__module__ == "recbole_sigma.plugin"
    assert "run_recboles," in inspect.getsource(module.run)
    assert "get_flops(" in inspect.getsource(module.run_recbole)
    assert "load_data_and_model" not in inspect.getsource(module._stock_run_recboles)


def test_a_spawned_worker_imports_us(tmp_path) -> None:
    """mp.spawn pickles run_recboles by name; unpickling it in a bare process must register the models."""
    import recbole.quick_start.quick_start as module

    (tmp_path / "worker.pkl").write_bytes(pickle.dumps(module.run_recboles))
    code = (
        "import pickle\n"
        f"f = pickle.load(open({str(tmp_path / 'worker.pkl')!r}, 'rb'))\n"
        "from recbole.utils import get_model\n"
        "print(get_model('WindowItemKNN').__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "recbole_sigma.models.window_item_knn", done.stderr


def test_trainer_and_collector_methods_that_we_override_exist() -> None:
    from recbole.data.dataset import Dataset, SequentialDataset
    from recbole.evaluator import Collector
    from recbole.trainer import Trainer

    for owner, names in (
        (
            Trainer,
            (
                "_build_optimizer",
                "_train_epoch",
                "_valid_epoch",
                "_save_checkpoint",
                "evaluate",
                "fit",
                "resume_checkpoint",
                "_generate_train_loss_output",
            ),
        ),
        (Collector, ("data_collect", "get_data_struct")),
        (
            Dataset,
            (
                "_remove_duplication",
                "_normalize",
                "_dataframe_to_interaction",
                "_drop_unused_col",
                "_split_index_by_leave_one_out",
                "build",
            ),
        ),
        (SequentialDataset, ("data_augmentation", "build")),
    ):
        for name in names:
            assert callable(getattr(owner, name)), f"{owner.__name__}.{name}"
    import recbole.trainer.trainer as module

    assert "get_tensorboard(self.logger)" in inspect.getsource(module.Trainer.__init__)


def test_register_twice_changes_nothing() -> None:
    from recbole.config import Config

    before = (Config._load_internal_config_dict, len(sys.meta_path))
    plugin.register()
    plugin.register()
    assert (Config._load_internal_config_dict, len(sys.meta_path)) == before


HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "transformers", "faiss", "ray", "recbole")


def test_importing_the_package_is_cheap() -> None:
    code = f"import recbole_sigma, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["recbole", "recbole_sigma"])
def test_the_shims_are_in_place_before_recboles_modules_whichever_comes_first(first: str) -> None:
    second = {"recbole": "recbole_sigma", "recbole_sigma": "recbole"}[first]
    code = (
        f"import {first}, {second}\n"
        "import numpy\n"
        "assert all(hasattr(numpy, name) for name in recbole_sigma._compat.NUMPY_ALIASES)\n"
        "import recbole.quick_start\n"
        "from recbole.utils import get_model\n"
        "print(get_model('WindowItemKNN').__name__, recbole._recbole_sigma)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["WindowItemKNN", "True"], done.stderr


def test_looking_for_recbole_runs_no_hook() -> None:
    code = (
        "import recbole_sigma, sys, importlib.util\n"
        "assert importlib.util.find_spec('recbole') is not None\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_hooks_also_work_on_modules_imported_before_us() -> None:
    code = (
        "import numpy as np\n"
        "from recbole_sigma._compat import restore_numpy_aliases\n"
        "import recbole_sigma, sys, importlib\n"
        "import recbole.quick_start\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_ImportHooks']\n"
        "for m in list(sys.modules):\n"
        "    if m.startswith('recbole.') and getattr(sys.modules[m], '_recbole_sigma', False): del "
        "sys.modules[m]._recbole_sigma\n"
        "recbole_sigma.plugin.register()\n"
        "from recbole.utils import get_trainer, ModelType\n"
        "print(get_trainer(ModelType.SEQUENTIAL, 'WindowItemKNN').__name__, "
        "recbole.quick_start.load_data_and_model.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["RunTrainer", "recbole_sigma.plugin"], done.stderr


def test_the_names_of_the_first_version_are_still_there() -> None:
    from recbole_sigma import quick_start

    assert quick_start.run_sigma is quick_start.run and quick_start.SigmaConfig is quick_start.RunConfig


def test_unknown_names_are_none_not_an_import_error() -> None:
    assert registry.find_model("NoSuchModel") is None
    assert {"SIGMA", "SASRec", "BPR", "Pop", "WindowItemKNN"} <= set(registry.model_names())


def test_a_class_with_a_stock_name_is_refused() -> None:
    class SASRec:
        pass

    with pytest.raises(UserError, match="rename the class"):
        registry.adopt(SASRec)


def test_a_class_can_be_defined_again_as_in_a_notebook() -> None:
    from recbole.utils import get_model

    def define() -> type:
        class NotebookModel:
            pass

        return NotebookModel

    first, second = define(), define()
    registry.adopt(first)
    assert get_model("NotebookModel") is first
    registry.adopt(second)
    assert get_model("NotebookModel") is second


def test_stock_quick_start_imports_without_ray() -> None:
    code = (
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n in ('ray', 'pkg_resources') else real(n, *a)\n"
        "import recbole_sigma, recbole.quick_start\n"
        "from ray import tune\n"
        "try:\n"
        "    tune.report()\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "install ray<=2.6.3" in done.stdout, done.stderr


def test_numpy_aliases_are_set_only_where_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(np, "float_", "kept")
    monkeypatch.delattr(np, "bool8")
    assert _compat.restore_numpy_aliases() == ["bool8"]
    assert np.float_ == "kept" and np.bool8 is np.bool_


def test_another_recbole_version_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compat, "version", lambda name: "1.3.0")
    with pytest.warns(
        UserWarning, match="recbole 1.3.0 is installed; recbole-sigma is tested with recbole 1.2.1"
    ):
        _compat.check_recbole_version()
