"""Every configuration in configs/ builds, and the process environment keeps what the user set."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

from ssdkd_jax import build, recipes
from ssdkd_jax.engine import environment
from ssdkd_jax.run import yardstick

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
INPUTS = {
    "digits": build.Inputs((16, 16, 1), 10, (0.3,), (0.4,)),
    "fashion_mnist": build.Inputs((28, 28, 1), 10, (0.3,), (0.4,)),
    "cifar10": build.Inputs((32, 32, 3), 10, (0.5,) * 3, (0.2,) * 3),
    "cifar100": build.Inputs((32, 32, 3), 100, (0.5,) * 3, (0.2,) * 3),
    "scenes": build.Inputs((64, 64, 1), 11, (0.4,), (0.2,)),
    "nyuv2": build.Inputs((128, 128, 3), 13, (0.5,) * 3, (0.5,) * 3),
}


def get_config(path, *pair):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*pair)


def test_there_are_configurations():
    assert {"digits", "fashion_mnist"} <= {path.stem for path in CONFIGS}


LARGE = ("cifar10", "nyuv2", "scenes")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in LARGE)) for p in CONFIGS]
)
def test_configuration_fits_its_data_and_models(path, one_device):
    config = get_config(path)
    inputs = INPUTS[config.data.name]
    teacher = build.network(config.teacher.model, inputs)
    variables = jax.eval_shape(lambda: teacher.init(jax.random.key(0)))
    job = build.job(config, inputs, teacher, variables)
    assert job.plan.rounds > job.plan.warmup
    assert build.student_steps(config) == (job.plan.rounds - job.plan.warmup) * job.plan.distill_steps
    assert yardstick.recipe_of(config).batch <= config.buffer.size
    assert config.lock().is_locked


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("pair", recipes.PAIRS)
def test_each_pair_of_the_paper_has_its_models_and_the_teachers_recipe(name, pair):
    config = get_config(CONFIGS[0].with_name(f"{name}.py"), pair)
    assert f"{config.teacher.model}_{config.student.model}" == pair
    assert config.data.name == name
    assert (config.teacher.weight_decay, config.teacher.epochs, config.buffer.size) == (5e-4, 200, 5000)
    student = build.network(config.student.model, INPUTS[name])
    assert jax.eval_shape(student.init, jax.random.key(0))["params"]


def test_an_unknown_pair_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Unknown pair 'resnet34-resnet18'; did you mean 'resnet34_resnet18'"):
        recipes.cifar("cifar10", "resnet34-resnet18")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "scenes"])
def test_a_method_is_named_behind_the_file(name):
    config = get_config(CONFIGS[0].with_name(f"{name}.py"), "dfad")
    assert (config.method.name, config.generative.divergence, config.synthesis.adv) == ("generative", "l1", 1.0)
    assert config.data.name == name


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the allocator's setting is glibc's")


@LINUX
def test_environment_adds_huge_pages_to_the_users_tunables():
    added = environment.cpu_environment({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"})
    assert added["GLIBC_TUNABLES"].split(":") == ["glibc.malloc.arena_max=2", "glibc.malloc.hugetlb=1"]


@LINUX
def test_environment_leaves_the_users_own_choice_of_pages():
    assert "GLIBC_TUNABLES" not in environment.cpu_environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})


def test_environment_keeps_the_users_xla_flags(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12))
    added = environment.cpu_environment({"XLA_FLAGS": "--xla_dump_to=/x"})
    assert added["XLA_FLAGS"].split()[0] == "--xla_dump_to=/x"
    assert len(added["XLA_FLAGS"].split()) > 1
    own = environment.cpu_environment({"XLA_FLAGS": "--xla_cpu_use_onednn=false"})
    assert not set(own["XLA_FLAGS"].split()) & set(environment.ONEDNN)
    own = environment.cpu_environment({"XLA_FLAGS": "--xla_backend_optimization_level=3"})
    assert own["XLA_FLAGS"].split()[1:] == list(environment.ONEDNN)
    assert environment.can_cache_programs({})
    assert not environment.can_cache_programs(added)


@pytest.mark.parametrize(
    ("python", "jaxlib", "flags"),
    [((3, 11), "0.10.2", environment.NO_YNNPACK), ((3, 11), "0.9.1", ()), ((3, 13), "0.12.0.1", environment.ONEDNN)],
)
def test_no_flag_that_this_jaxlib_does_not_know(python, jaxlib, flags, monkeypatch):
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr("importlib.metadata.version", {"jaxlib": jaxlib}.get)
    assert environment.cpu_environment({})["XLA_FLAGS"].split() == [*flags, "--xla_backend_optimization_level=1"]


def test_programs_are_compiled_alike_in_a_script_and_in_a_users_own_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    (name, level), *more = environment.compiler_options("cpu").items()
    assert not more and f"--{name}={level}" in environment.cpu_environment({})["XLA_FLAGS"].split()
    assert environment.compiler_options("gpu") == {}
    for flags in (environment.cpu_environment({})["XLA_FLAGS"], f"--{name}=3"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        assert environment.compiler_options("cpu") == {}


def test_environment_that_is_complete_gets_nothing():
    once = environment.cpu_environment({})
    assert environment.cpu_environment(once) == {}


def test_an_explicit_cpu_platform_is_no_accelerator():
    assert not environment.has_accelerator({"JAX_PLATFORMS": "cpu"})


def test_scripts_do_not_restart_twice(monkeypatch):
    monkeypatch.setenv(environment.MARK, "0")
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("restarted"))
    environment.prepare()
