"""Whose classes may be trusted, where config files may lie, and which words of a command say so."""

from pathlib import Path

import pytest
import yaml

from ssl_framework.loading import load_run_config
from ssl_framework.runs import plugins
from ssl_framework.runs.config import command_line
from ssl_framework.runs.groups import CONFIGS, admit, admitted, choices, groups
from ssl_framework.runs.overrides import names_of
from ssl_framework.runs.plugins import FOLDERS, TRUST, split_plugins, trusted, trustworthy, within
from ssl_framework.runs.trust import SAID, is_trusted


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test lets this process know is forgotten after it."""
    for variable in (FOLDERS, TRUST):
        monkeypatch.setenv(variable, "")


def lab(folder: Path, module: str = "mylab_here", **files: str) -> Path:
    """A folder of config files ``group__name`` beside a module with a class and what is no class of its own."""
    for name, text in files.items():
        path = folder / "configs" / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / f"{module}.py").write_text(
        "import subprocess\nfrom subprocess import Popen\n\n\nclass Own:\n    pass\n\n\ndef function():\n    return 1\n"
    )
    return folder / "configs"


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("os", "os is never trusted"),
        ("subprocess", "subprocess is never trusted"),
        ("builtins", "builtins is never trusted"),
        ("importlib.metadata", "importlib is never trusted"),
        ("torch", "torch is never trusted"),
        ("torch.hub", "torch is never trusted"),
        ("hydra", "hydra is never trusted"),
        ("numpy", "numpy is never trusted"),
        ("ssl_framework", "ssl_framework is trusted as it is"),
        ("my lab", "it must be the name of a package"),
        ("mylab.", "it must be the name of a package"),
        ("../mylab", "it must be the name of a package"),
        ("", "it must be the name of a package"),
    ],
)
def test_what_cannot_be_trusted(prefix: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        trustworthy(prefix)


def test_a_prefix_is_whole_parts_of_a_name() -> None:
    assert within("mylab", ["mylab"]) and within("mylab.losses.Loss", ["mylab"]) and within("a.b.C", ["a.b"])
    assert not within("mylab_evil.Loss", ["mylab"]) and not within("a.bc.D", ["a.b"]) and not within("a", ["a.b"])
    assert not within("torch.optim_evil.X", ["torch.optim"])


def test_the_words_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    where = str(tmp_path / "c")
    for said in (["--config-dir", "c"], ["--config-dir=c"], ["-cd", "c"]):
        found = split_plugins(["-m", *said, "trust=[a,b.c]", "seed=0,1", "trust=d", "-c", "job"])
        assert found == ([where], ["a", "b.c", "d"], ["-m", "seed=0,1", "-c", "job"])
    assert admitted(["--config-dir", "c", "trust=[a]", "x=1"]) == ["x=1"]
    assert admitted(["trust=[b, a]"]) == []
    assert trusted()[-2:] == ("a", "b")
    assert command_line(["seed=1"], "-m") == 'python train.py -m --config-dir c "trust=[a,b]" seed=1'


def test_what_is_refused_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, said in (
        (["--config-dir", "nowhere"], "error: --config-dir nowhere: there is no such folder"),
        (["--config-dir"], "error: --config-dir : there is no such folder"),
        (["trust=[os]", "x=1"], "error: trust=os: os is never trusted, because its classes do whatever"),
        (
            ["--config-dir", str(lab(tmp_path, method__simclr="x: 1"))],
            f"error: --config-dir {tmp_path / 'configs'} has a file method/simclr.yaml, but this package has one, too: "
            "give yours another name",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            admit(arguments)
        assert str(ended.value).startswith(said) and "\n" not in str(ended.value)
    assert plugins.as_typed() == []


def test_two_plugins_with_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (lab(tmp_path / name, mixer__mine="x: 1") for name in ("a", "b") if not (tmp_path / name).mkdir())
    admitted(["--config-dir", str(first)])
    with pytest.raises(
        ValueError, match=rf"{second} has a file mixer/mine.yaml, but --config-dir {first} has one, too"
    ):
        admitted(["--config-dir", str(second)])
    assert choices("mixer").count("mine") == 1


def test_groups_and_choices_are_those_of_all_folders(tmp_path: Path) -> None:
    before, data = groups(), choices("data")
    admitted(["--config-dir", str(lab(tmp_path, data__mine="x: 1", instrument__violin="x: 1", study__p__t="x: 1"))])
    assert set(groups()) == {*before, "instrument"} and set(choices("data")) == {*data, "mine"}
    assert names_of("data", "mine,shapes") == ["mine", "shapes"] and "p/t" in choices("study")
    assert (CONFIGS / "data" / "shapes.yaml").is_file() and "shapes" in data
    with pytest.raises(ValueError, match=r"there is no data=mime \(did you mean mine\?\); data can be: .*mine"):
        names_of("data", "mime")


def test_trust_opens_classes_of_that_package_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(tmp_path)
    lab(tmp_path, "mylab_here_evil")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("mylab_here.Own", "mylab_here.Popen", "mylab_here.function", "mylab_here.subprocess.Popen")
    assert not any(map(is_trusted, names))
    admitted(["trust=[mylab_here]"])
    assert list(map(is_trusted, names)) == [True, False, False, False]
    assert (
        not is_trusted("mylab_here_evil.Own") and not is_trusted("mylab_here.Missing") and not is_trusted("os.system")
    )


def stored(folder: Path, content: dict) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_stored_config_says_how_to_trust_it_and_cannot_say_it_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = stored(tmp_path, {"trust": ["mylab_here"], "objective": {"_target_": "mylab_here.Own"}})
    with pytest.raises(
        ValueError,
        match=rf"asks to construct 'mylab_here.Own', which is not {SAID}: nothing was loaded; if you trust mylab_here, "
        r"write trust=\[mylab_here\] into the command, or install the package that declares it as a plugin$",
    ):
        load_run_config(run)
    admitted(["trust=[mylab_here]"])
    assert load_run_config(run).objective._target_ == "mylab_here.Own"
    stored(tmp_path, {"objective": {"_target_": "mylab_here.losses.Own"}})
    with pytest.raises(ValueError, match="but mylab_here, which is trusted, has no such class of its own here"):
        load_run_config(run)
    stored(tmp_path, {"objective": {"_target_": "os.system"}})
    with pytest.raises(ValueError, match=r"nothing was loaded$"):  # no way to trust it is offered
        load_run_config(run)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("os = mylab_here", "the entry point os of ssl_framework.plugins is refused: trust=os: os is never trusted"),
        ("mylab_here = mylab_nowhere.configs", "says its config files are in mylab_nowhere.configs, but there is no"),
        ("mylab_here = mylab_here./etc", "says its config files are in mylab_here./etc, but there is no such folder"),
    ],
)
def test_an_entry_point_that_is_wrong_is_one_sentence(
    point: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab(tmp_path)
    (tmp_path / "lab-1.dist-info").mkdir()
    (tmp_path / "lab-1.dist-info" / "METADATA").write_text("Name: lab\nVersion: 1\n")
    (tmp_path / "lab-1.dist-info" / "entry_points.txt").write_text(f"[ssl_framework.plugins]\n{point}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        admit([])
    assert said in str(ended.value) and "\n" not in str(ended.value)
