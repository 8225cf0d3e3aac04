"""The start of the command line: once anew with huge pages, and nothing but that is changed."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from experiments import launch

ROOT = pathlib.Path(__file__).parents[1]
linux = pytest.mark.skipif(not launch.gains({"JAX_PLATFORMS": "cpu"}), reason="for a Linux with glibc from 2.35 on")
# A command: it tells what it was given and what it is, and how often it began.
COMMAND = """
import json, os, signal, sys
print(os.getpid(), file=open(sys.argv[1], "a"))
from experiments import launch
{before}
launch.begin_anew()
read = sys.stdin.read()
names = (launch.TUNABLES, "KEPT")
found = [os.environ.get(name) for name in names]
print(json.dumps([found, sys.argv, read, sys.flags.optimize, "jax" in sys.modules]))
{after}
"""


def begin(folder, *arguments, before="", after="", **variables):
    """What a command tells, how often it began, whether always in one process, and its exit status."""
    (folder / "command.py").write_text(COMMAND.format(before=before, after=after))
    (folder / "begun").unlink(missing_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in (launch.TUNABLES, launch._BEGUN)}
    process = subprocess.Popen(
        [sys.executable, "-O", str(folder / "command.py"), str(folder / "begun"), *arguments],
        env=kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "KEPT": "yes", **variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = process.communicate("given", timeout=60)[0]
    begun = (folder / "begun").read_text().split()
    assert set(begun) == {str(process.pid)}
    return json.loads(told), len(begun), process.returncode


@linux
def test_a_command_begins_anew_once(tmp_path):
    """With its arguments, its input, Python's own flags and its exit status, in the same process."""
    odd = ["--a=b c", "-m", "é'\"$\n", ""]
    (found, argv, read, optimize, jax), begun, status = begin(tmp_path, *odd, after="sys.exit(3)")
    assert (begun, status) == (2, 3)
    assert found == [launch.HUGE_PAGES, "yes"]
    assert argv[2:] == odd and read == "given" and optimize == 1 and not jax


@linux
def test_it_dies_of_signals_as_before(tmp_path):
    _, begun, status = begin(tmp_path, after="sys.stdout.flush(); os.kill(os.getpid(), signal.SIGTERM)")
    assert begun == 2 and status == -signal.SIGTERM


@linux
@pytest.mark.parametrize(
    ("before", "variables"),
    [
        ("", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
        ("", {"GLIBC_TUNABLES": ""}),
        ("", {"ROBUSTJAX_BEGUN_ANEW": "1"}),  # the tunables were dropped on the way
        ("", {"JAX_PLATFORMS": "cuda,cpu"}),
        ("sys.modules['jax'] = sys", {}),
        ("sys.modules['ipykernel'] = sys", {}),
        ("sys.argv[1:] = ['--method=gce']", {}),  # not what Python was started with: another program's call
        ("sys.executable = ''", {}),
        ("sys.executable = '/nowhere/python'", {}),
        ("sys.platform = 'darwin'", {}),
    ],
    ids=repr,
)
def test_a_command_goes_on_as_it_is(before, variables, tmp_path):
    (found, *_), begun, status = begin(tmp_path, before=before, **variables)
    assert (begun, status) == (1, 0)
    assert found[0] == variables.get("GLIBC_TUNABLES")


@linux
def test_the_commands_begin_anew(tmp_path):
    """The module, and the installed command's function: both before they import anything heavy."""
    executed = (
        "import os, sys\n"
        "def told(file, arguments, variables):\n"
        "    os.write(1, ' '.join([variables['GLIBC_TUNABLES'], *arguments[1:]]).encode())\n"
        "    os._exit(0 if 'numpy' not in sys.modules else 9)\n"
        "os.execve = told\n"
    )
    (tmp_path / "sitecustomize.py").write_text(executed)
    kept = {name: value for name, value in os.environ.items() if name not in (launch.TUNABLES, launch._BEGUN)}
    variables = kept | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"}
    console = "import sys; from experiments.launch import main; sys.exit(main())"
    for command in (["-m", "experiments.run"], ["-m", "experiments.reproduce"], ["-c", console]):
        arguments = [*command, "--epochs=1"]
        done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, " ".join([launch.HUGE_PAGES, *arguments])), done.stderr


@linux
def test_where_the_cpu_will_train(tmp_path, monkeypatch):
    gains = lambda **variables: launch.gains(variables, tmp_path)  # noqa: E731
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "nvidia0").touch()
    assert gains() and gains(JAX_PLATFORMS="") and gains(TPU_NAME="local")  # no plugin of JAX's could use them
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: name == "jax_plugins")
    assert not gains() and gains(JAX_PLATFORMS="cpu") and gains(JAX_PLATFORMS="cpu,cuda")
    (tmp_path / "nvidia0").unlink()
    assert gains() and not gains(TPU_NAME="local") and not gains(JAX_PLATFORMS="tpu")
    (tmp_path / "accel0").touch()
    assert not gains()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.31")
    assert not gains(JAX_PLATFORMS="cpu")
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert not gains(JAX_PLATFORMS="cpu")
