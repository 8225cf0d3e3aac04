"""Methods and models of one's own, by file: trained from the command line, restored, refused where they are none."""

import json
import pathlib
import re
import textwrap

import numpy as np
import pytest

from experiments import run
from experiments.runs import directory, restore
from experiments.settings import command_line, config
from robustjax import user_code
from robustjax.training import evaluation

METHOD = '''
    import jax
    from robustjax import losses
    from robustjax.methods import base

    def tempered(task, *, temperature: float = 2.0, sharp: bool = False):
        """Cross entropy of softened outputs.

        Args:
          temperature: what logits are divided by.
          sharp: whether they are multiplied instead.
        """
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} must be positive.")
        scale = temperature if sharp else 1 / temperature

        def step(learner, batches, clock, key):
            batch = batches["train"]
            terms = lambda z: {"ce": base.Term(losses.cross_entropy(scale * z, batch.labels), batch.mask)}
            attempt = base.attempt_on(task, learner, task.strong(key, batch.inputs), key, terms)
            return base.descend(task, learner, batch, clock, attempt)[:2]

        stage = base.Stage(task.epochs, base.one_pass(step))
        return base.method(
            lambda key, labels: base.init_learner(key, task), [stage], lambda s, x: base.predict_with(task, s, x)
        )

    elr = base.Entry("sce_x", tempered, "Nobody, NeurIPS 2030", family="dynamic_loss")
    later = base.Entry("gce", tempered, "Nobody, NeurIPS 2030")

    def sce(task, *, alpha: float = 0.5):
        return 17

    def positional(task, rate=0.1):
        return 17

    def epochs_twice(task, *, epochs: int = 3):
        return 17

    NUMBER = 3
'''

LINEN = """
    from flax import linen as nn

    class Small(nn.Module):
        num_classes: int
        hidden: int = 16

        @nn.compact
        def __call__(self, x, train):
            hidden = nn.Dense(self.hidden)(x.reshape(len(x), -1))
            features = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
            return nn.Dense(self.num_classes)(features), features
"""

NNX = """
    import jax
    from flax import nnx

    class Small(nnx.Module):
        def __init__(self, num_classes, hidden: int = 16, *, rngs):
            self.inner = nnx.Linear(64, hidden, rngs=rngs)
            self.outer = nnx.Linear(hidden, num_classes, rngs=rngs)

        def __call__(self, x):
            return self.outer(jax.nn.relu(self.inner(x.reshape(len(x), -1))))
"""

FAST = [
    "--dataset=digits", "--batch-size=256", "--epochs=2", "--quiet", "--parallel=single", "--compilation-cache=off",
    "--augmentation=none",
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return str(tmp_path / name)

    return write


def train(out, *flags):
    return run.main([*FAST, f"--out={out}", *flags])


def check_restored(out):
    """What is restored predicts as was recorded; returns its settings."""
    found = restore.restore_run(out, trust_code=True)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    logits = restore.predict(found, found.dataset.test_inputs)
    assert evaluation.accuracy(logits, found.dataset.test_labels) == pytest.approx(last["test_accuracy"], abs=1e-6)
    return found.settings


def test_a_method_in_a_file_end_to_end(write, tmp_path, capsys):
    file, out = write(METHOD), tmp_path / "run"
    assert train(out, f"--method={file}:tempered", "--temperature=3", "--model=mlp") == 0
    settings = check_restored(out)
    assert settings.method.startswith(f"{file}:tempered#sha256=") and len(settings.method.split("=")[-1]) == 16
    assert settings.options == {"temperature": 3.0, "sharp": False}
    assert directory.default_path(settings).name.startswith("digits-tempered-")
    assert train(out, f"--method={file}:tempered", "--temperature=3", "--model=mlp") == 0  # recognised
    write(METHOD + "\n    # changed\n")
    with pytest.raises(ValueError, match="has changed"):
        restore.restore_run(out, trust_code=True)
    assert train(out, f"--method={file}:tempered", "--temperature=3", "--model=mlp") == 2
    assert "#sha256=" in capsys.readouterr().err


@pytest.mark.parametrize("text", [LINEN, NNX], ids=["linen", "nnx"])
def test_a_model_in_a_file_end_to_end(write, tmp_path, text):
    file, out = write(text), tmp_path / "run"
    flags = ["--method=cross_entropy", f"--model={file}:Small", "--model-options=hidden=8"]
    assert train(out, *flags) == 0
    settings = check_restored(out)
    assert settings.model.startswith(f"{file}:Small#sha256=") and settings.model_options == "hidden=8"
    found = restore.restore_run(out, trust_code=True)
    assert found.task.model.name == "Small"
    shapes = [leaf.shape for leaf in _leaves(found.states[0].learner.params)]
    assert (64, 8) in shapes and (8, 10) in shapes


def test_what_the_page_shows_trains(tmp_path, monkeypatch):
    """The page's loss and network, as they stand there, by the page's own flags."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "own_code.md").read_text()
    for code in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page, re.DOTALL):
        (tmp_path / code[1]).write_text(code[0])
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"^python -m experiments\.run (--[^#\n]*)", page, re.MULTILINE)
    assert [command.split()[0].partition(":")[0] for command in shown] == ["--loss=my_loss.py", "--model=my_network.py"]
    for number, (command, quick) in enumerate(zip(shown, ("--model=mlp", "--method=cross_entropy"), strict=True)):
        assert train(tmp_path / str(number), "--epochs=1", quick, *command.split()) == 0


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_recipes_are_by_exact_family(write):
    """Neither a name like another's nor a file's brings constants of other methods; a family named in an entry does."""
    file = write(METHOD)

    def options(name):
        return config.resolve({"method": f"{file}:{name}", "dataset": "cifar10"})

    plain, _ = config.resolve({"method": "cross_entropy", "dataset": "cifar10"})
    for name in ("tempered", "later"):
        settings, sources = options(name)
        assert (settings.epochs, settings.model) == (plain.epochs, plain.model) and len(sources) == 1
    settings, sources = config.resolve({"method": f"{file}:elr", "dataset": "cifar100"})
    assert any("R = 50" in source for source in sources)


def test_options_of_a_file_have_flags_and_help(write, tmp_path, capsys):
    spec = f"{write(METHOD)}:tempered"
    given = command_line.parse([f"--method={spec}", "--temperature=0.5", "--sharp"])
    assert (given["temperature"], given["sharp"]) == (0.5, True)
    assert run.main([f"--method={spec}", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--temperature=NUMBER" in text and "what logits are divided by (2)" in text
    assert "--[no-]sharp" in text and "Cross entropy of softened outputs." in text
    assert train(tmp_path / "run", f"--method={spec}", "--q=0.5") == 2
    assert "--q belongs to gce" in capsys.readouterr().err
    assert train(tmp_path / "run", f"--method={spec}", "--temperature=-1", "--model=mlp") == 2
    assert "temperature=-1.0 must be positive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method={file}:sce"], "mine.py:sce' must give a robustjax.methods.Method"),
        (["--method={file}:nothing"], "has no function 'nothing'; it has tempered, elr, later, sce"),
        (["--method={file}:NUMBER"], "has no function 'NUMBER'"),
        (["--method={file}"], "FILE.py:NAME of a factory (task, *, options) -> Method"),
        (["--method=nowhere.py:f"], "there is no such file"),
        (["--method={file}:positional"], "'rate' must be an option, keyword-only"),
        (["--method={file}:epochs_twice"], "which is a setting of every run"),
        (["--model={file}:NUMBER"], "has no function 'NUMBER'"),
        (["--model=nowhere.py:f"], "there is no such file"),
        (
            ["--model={file}:tempered"],
            "mine.py:tempered' raised AttributeError: 'int' object has no attribute 'epochs'",
        ),
        (["--model={linen}:Small", "--model-options=width=3"], "no option width"),
        (["--model={linen}:Small", "--model-options=width"], "KEY=VALUE, several joined by commas"),
        (["--model={linen}:Small", "--head=cosine"], "--head is for the registered models"),
        (["--model={linen}:Small", "--precision=bfloat16"], "a model of your own computes"),
        (["--model=mlp", "--model-options=colour=red"], "colour"),
    ],
)
def test_what_is_no_method_or_model_is_refused(write, tmp_path, capsys, flags, message):
    files = {"file": write(METHOD), "linen": write(LINEN, "linen.py")}
    assert train(tmp_path / "run", *(flag.format(**files) for flag in flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_a_registered_model(tmp_path):
    assert train(tmp_path / "run", "--method=ce", "--model=small_cnn", "--model-options=pooling=average") == 0
    params = restore.restore_run(tmp_path / "run").states[0].learner.params
    settings, _ = config.resolve({"method": "ce", "model": "small_cnn"})
    assert "model_options" not in config.identity(settings)  # so that runs of before it was known are the same runs
    assert params["head"]["kernel"].shape == (64, 10)


def test_a_files_module_is_run_once_for_each_content(write):
    file = write("import itertools\ncounter = itertools.count()\ndef f():\n    return next(counter)\n")
    first = user_code.load(f"{file}:f", "method", "anything")
    assert first() == 0 and user_code.load(f"{file}:f", "groups", "anything")() == 1
    write("import itertools\ncounter = itertools.count(5)\ndef f():\n    return next(counter)\n")
    assert user_code.load(f"{file}:f", "method", "anything")() == 5
    assert user_code.short_name(f"{file}:f#sha256=00") == "f" and user_code.find("elr_plus") is None
    np.testing.assert_equal(user_code.pin(user_code.pin(f"{file}:f", "a", "b"), "a", "b").count("#"), 1)
