"""README.md and docs/ hold what they say: links, commands, flags and code are those of the library."""

import ast
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import ssdkd_jax
from ssdkd_jax import cli, config, models, settings
from ssdkd_jax.interop import notes, saved
from ssdkd_jax.models import shares
from ssdkd_jax.types import Inputs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
SHAPE = (32, 32, 3)
DISTILL, DEFAULT_CONFIG = ssdkd_jax.distill, ssdkd_jax.default_config


def named(page):
    return str(page.relative_to(ROOT))


def blocks(kind):
    """(page, mark, text) of each fenced block of a kind."""
    found = [(page, match) for page in PAGES for match in FENCE.finditer(page.read_text())]
    return [(page, match["mark"] or "", match["text"]) for page, match in found if match["kind"] == kind]


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(text):
    """Those of a page's prose: of no code, table, heading or picture."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"^(\||#|!\[).*$", "", text, flags=re.M))
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", text.replace("*", ""))
    return [one for part in paragraphs for one in re.split(r"(?<=[.!?])\s+", " ".join(part.split())) if one]


def test_the_readme_is_short_and_so_are_its_sentences():
    text = README.read_text()
    assert text.count("\n") <= 150
    long = [one for one in sentences(text) if len(one.split()) > 30]
    assert not long
    assert len(sentences(text)) > 30
    prose = [line for line in FENCE.sub("", text).split("\n") if not line.startswith("|")]
    assert max(map(len, prose)) <= 120


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "experiments" / "results").glob("*.md"))], ids=named)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_front():
    links = re.findall(r"\]\((docs/[^)#]+)", README.read_text())
    assert {ROOT / link for link in links} == {*PAGES} - {README}


def test_the_tests_line_is_the_one_that_ci_reads():
    found = README.read_text().partition("<!-- tests -->")[2].partition("```\n")[0].split("```bash\n")[1]
    assert found.startswith("python3 -m venv") and found.count("\n") == 1 and "pytest" in found


def flags_of(module):
    """The flags that a module of ssdkd_jax.cli defines; two of these modules cannot be imported at once."""
    tree = ast.parse((Path(cli.__file__).parent / f"{module}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    names = [call.args[0] for call in calls if call.func.attr.startswith("DEFINE_")]
    return {name.value if isinstance(name, ast.Constant) else getattr(notes, name.attr) for name in names}


def commands():
    """(page, words) of each command: a line of a bash block, or code within a sentence."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for match in FENCE.finditer(text) for line in match["text"].replace("\\\n", " ").split("\n")]
        spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
        for line in (*lines, *(" ".join(span.split()) for span in spans)):
            match = re.search(r"(?:^|&& |/)(ssdkd|python experiments/\w+\.py)(?= )(.*)", line)
            if match:
                found.append((named(page), shlex.split(match[1] + match[2], comments=True)))
    return found


def test_commands_and_their_flags_are_those_of_the_library():
    found, fields = commands(), settings.flat(config.default())
    assert len(found) > 20
    for page, words in found:
        told = (page, words)
        known = None
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), told
        elif words[1] != "--help":
            assert words[1] in cli.COMMANDS, told
            known = flags_of(cli.COMMANDS[words[1]][0]) | flags_of("launch") | {"help"}
        for word in words:
            flag, _, value = word.removeprefix("--").partition("=")
            if not word.startswith("--"):
                continue
            if flag.startswith("config."):
                assert flag.removeprefix("config.") in fields, told
            elif known is not None:
                assert flag in known, told
            if flag == "config":
                file, _, arguments = value.partition(":")
                namespace = {}
                exec((ROOT / file).read_text(), namespace)
                namespace["get_config"](*([arguments] if arguments else []))


def test_settings_named_in_a_sentence_are_there():
    fields = settings.flat(config.default())
    sections = {name.partition(".")[0] for name in fields if "." in name}
    for page in PAGES:
        spans = re.findall(r"`([a-z_]+\.[a-z_]+)[=`]", FENCE.sub("", page.read_text()))
        asked = [name for name in spans if name.partition(".")[0] in sections and not name.endswith((".py", ".json"))]
        functions = {"student.make_step", "inversion.make_step"}
        assert {*asked} - functions <= fields.keys(), named(page)


@pytest.mark.parametrize(("page", "mark", "text"), blocks("python"), ids=lambda one: getattr(one, "name", "")[:20])
def test_code_compiles_and_what_it_takes_of_the_library_is_there(page, mark, text):
    tree, modules = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {one.name: importlib.import_module(one.name) for one in node.names if one.name == "ssdkd_jax"}
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ssdkd_jax"):
            for one in node.names:
                importlib.import_module(node.module)
                found = getattr(sys.modules[node.module], one.name, None)
                modules[one.name] = found or importlib.import_module(f"{node.module}.{one.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


class Linen(nn.Module):
    """A user's own network."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3), strides=(4, 4), name="conv")(images)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="norm")(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class Nnx(nnx.Module):
    """The same as an NNX module."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), strides=(4, 4), rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(4, momentum=0.9, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, images):
        return self.head(nnx.relu(self.norm(self.conv(images))).mean((1, 2)))


def torch_network():
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 4, 3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 5))


def saved_teacher():
    inputs = Inputs((16, 16, 1), 10, (0.5,), (0.25,))
    network = models.bind(models.by_name("wrn10_1", 10), inputs.image_shape, inputs.mean, inputs.std)
    saved.save("runs/digits/teacher", network.init(jax.random.key(0)), saved.note("wrn10_1", inputs))


OWN = {
    "torch": lambda: {"torch_network": torch_network()},
    "linen": lambda: {
        "linen_module": Linen(),
        "linen_variables": Linen().init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), False),
    },
    "nnx": lambda: {"nnx_module": Nnx(nnx.Rngs(0))},
    "function": lambda: {
        "weights": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
        "apply": lambda weights, images: images.mean((1, 2)) @ weights,
    },
    "saved": lambda: saved_teacher() or {},
}


def small(teacher, student, **options):
    """The config of a run of a few small steps."""
    found = DEFAULT_CONFIG(teacher, student, **options)
    found.student.batch, found.buffer.size = 8, 16
    found.synthesis.update(batch=8, inner_steps=1, width=4)
    found.schedule.update(rounds=2, warmup=1, distill_steps=2, evaluate_every=2)
    return found


def untaught(teacher, student, **options):
    """What stands for `distill` where a test has no time for it: a student that has learnt nothing."""
    inspect.signature(DISTILL).bind(teacher, student, **options)
    network, name = shares.student(str(student), teacher.inputs, teacher.network, None), str(student)
    variables = jax.jit(network.init)(jax.random.key(0))
    return SimpleNamespace(student=ssdkd_jax.Classifier(network, variables, teacher.inputs, name), finished=True)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["made", "taught"])
@pytest.mark.parametrize(
    ("page", "mark", "text"),
    [block for block in blocks("python") if block[1].startswith("runs: ")],
    ids=lambda one: one.name if isinstance(one, Path) else one.partition("\n")[0][:20],
)
def test_code_that_is_marked_runs(page, mark, text, whole, one_device, tmp_path, monkeypatch):
    if not whole and "for _ in" in text:
        pytest.skip("a loop of whole steps: tests/test_api.py has it smaller")
    monkeypatch.chdir(tmp_path)
    taught = lambda *networks: DISTILL(*networks, small(*networks))  # noqa: E731
    monkeypatch.setattr(ssdkd_jax, "default_config", small, raising=False)
    monkeypatch.setattr(ssdkd_jax, "distill", taught if whole else untaught, raising=False)
    package = ModuleType("my_package")
    for name in mark.removeprefix("runs: ").split():
        package.__dict__.update(OWN[name]())
    monkeypatch.setitem(sys.modules, "my_package", package)
    names = {}
    exec(compile(text, named(page), "exec"), names)
    assert names["teacher"].classes in (5, 10)
    if "distilled" in names:
        images = np.zeros((2, *names["teacher"].image_shape), np.uint8)
        assert names["distilled"].finished and names["distilled"].student(images).shape[0] == 2
