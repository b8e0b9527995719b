"""The page of a run and its pictures: whole in one file, drawn for every kind of data, and never the end of a run."""

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_framework.commands.show import main
from ssl_framework.data.base import Split
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.knn import KNN
from ssl_framework.report import page
from ssl_framework.report.inspection import Inspection, class_names, embedded, sampled
from ssl_framework.report.page import Page, pictures_of, send
from ssl_framework.report.pictures import boards, curves, features
from ssl_framework.report.pictures.boards import Tile, cut, draw_board
from ssl_framework.report.pictures.curves import family, parameters, thinned
from ssl_framework.report.pictures.features import pca
from ssl_framework.runs.config import MAY_CHANGE, config_hash, refuse_other_config
from ssl_framework.runs.folder import RunFolder
from tests.small_runs import config, run_in, small

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KNN_ONLY = (
    "evaluation=frozen",
    "~evaluation.probes.linear",
    "evaluation.probes.knn.k=20",
    "evaluation.every_n_epochs=1",
)
VIT = ("backbone=vit_tiny", "backbone.options.patch_size=8", "backbone.options.depth=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a mixer, a ViT and an evaluation each epoch that has written its page."""
    folder = tmp_path_factory.mktemp("page") / "run"
    board = ("logger=tensorboard", f"logger.tensorboard.save_dir={folder}")
    cfg = small("simclr", "mixer=cutmix", "report=page", *board, *VIT, *KNN_ONLY)
    scores = {name: np.eye(2, 4) for name in ("positive", "mean_negative", "hardest_negative")}
    folder.mkdir()
    np.savez(folder / "scores.npz", edges=np.linspace(-1, 1, 5), step=np.array([6, 12]), **scores)
    assert run_in(folder, cfg, method="simclr", command="python train.py <b>&") is None
    about = {"method": "simclr", "data": "shapes", "overrides": [], "command": "python train.py <b>&"}
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "run"))


class Parsed(HTMLParser):
    """Tags, their attributes and the text of a page; refuses tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> Iterator[tuple[Image.Image, str]]:
        """Every picture, and its words."""
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = attributes["src"].split(",", 1)
                assert kind == "data:image/png;base64"
                yield Image.open(io.BytesIO(base64.b64decode(data, validate=True))), attributes["alt"]


OF_TOWERS = {"similarity"}
"""Pictures of runs with several towers alone."""


def page_again(folder: Path, *overrides: str) -> Parsed:
    """The page of a run, written anew."""
    return Parsed(Page(40, tsne=False, seed=0).write(folder, overrides=overrides))


def test_the_page_is_one_file_with_every_picture_and_word(run: Path) -> None:
    found = Parsed(run / "report.html")
    names = [path.stem for path in sorted((run / "pictures").iterdir())]
    assert names == sorted(picture.name for picture in pictures_of(False) if picture.name not in OF_TOWERS)
    shown = list(found.images)
    assert len(shown) == len(names)
    for image, words in shown:
        pixels = np.asarray(image.convert("RGB"))
        assert pixels.std() > 5 and image.width > 300 and len(words) > 20, words
    source = (run / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", source) and "url(" not in source and "@import" not in source
    assert "<script" not in source and "Left out" not in found.text
    result = json.loads((run / "result.json").read_text())
    (metric,) = result["metrics"]
    low, high = result["intervals"][metric]
    trained, references = result["metrics"][metric], [b[metric] for b in result["baselines"].values()]
    for value in (trained, low, high, *references):
        assert f"{value:.1f}" in found.text
    for words in (metric, "frozen/1", result["config_hash"], result["versions"]["torch"], "python train.py <b>&"):
        assert words in found.text
    assert "simclr on shapes, seed 0" in found.text and "Finished: 12 steps" in found.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_every_picture_and_has_nothing_to_complain_of(run: Path, tmp_path: Path) -> None:
    """A copy of the page tells which of its pictures have been decoded, and how wide page and window are."""
    told = (
        "<script>addEventListener('load', () => { document.body.dataset.told = JSON.stringify({"
        "widths: [...document.images].map(i => i.naturalWidth), page: document.documentElement.scrollWidth, "
        "window: innerWidth}) })</script></body>"
    )
    (tmp_path / "copy.html").write_text((run / "report.html").read_text().replace("</body>", told))
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=800,600")
    at = ("--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    command = [CHROMIUM, *flags, *at, f"file://{tmp_path / 'copy.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told_back = re.search(r'data-told="([^"]*)"', done.stdout)
    assert told_back is not None, done.stderr[-2000:]
    values = json.loads(told_back[1].replace("&quot;", '"'))
    assert len(values["widths"]) == len(pictures_of(False)) - len(OF_TOWERS) and min(values["widths"]) > 300
    assert values["page"] <= values["window"]  # nothing sticks out of a narrow window
    assert ":CONSOLE" not in done.stderr


def test_a_picture_that_fails_is_a_line_in_its_place(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seen: Inspection, out: Path) -> str:
        raise RuntimeError("no <memory>\nleft")

    kept = [picture._replace(draw=fail) if picture.name != "training" else picture for picture in pictures_of(False)]
    monkeypatch.setattr(page, "pictures_of", lambda tsne: kept)
    found = page_again(copied)
    assert [words.split(".")[0] for _, words in found.images] == ["Training"]
    assert "Left out: Evaluation over training (RuntimeError: no <memory> left)." in found.text
    assert "Left out: Similarities of views, Nearest neighbours, Classes, " in found.text  # one line for all


def test_a_page_that_fails_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(*given: Any) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Page, "write", fail)
    assert run_in(tmp_path, small("simclr", "report=page", "trainer.max_epochs=1")) is None
    assert (tmp_path / "result.json").is_file() and "no report: OSError: disk full" in capsys.readouterr().out


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn, and their files are one pixel: rendering takes most of the time of a page."""

    def save(figure: Any, out: Path, pad: float = 0) -> None:
        plt.close(figure)
        out.parent.mkdir(exist_ok=True)
        Image.new("RGB", (1, 1)).save(out)

    for module in (boards, curves, features):
        monkeypatch.setattr(module, "save", save)


@pytest.mark.usefixtures("unrendered")
def test_a_run_still_in_training_shows_its_last_checkpoint(run: Path, copied: Path) -> None:
    (copied / "result.json").unlink()
    found = page_again(copied)
    assert "Not finished: checkpoint of step 12, epoch 2 of 2" in found.text and "Left out" not in found.text
    result = json.loads((run / "result.json").read_text())
    assert f"{next(iter(result['baselines']['untrained'].values())):.1f}" in found.text  # the checkpoint has them
    shutil.rmtree(copied / "checkpoints")
    found = page_again(copied)
    assert "Not finished: no checkpoint yet" in found.text and len(list(found.images)) == 3  # curves and scores
    assert "Mixtures (the run has written no checkpoint yet)" in found.text


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are rendered with a tenth of their pixels."""
    savefig = Figure.savefig

    def save(figure: Figure, *args: Any, **kwargs: Any) -> None:
        savefig(figure, *args, **{**kwargs, "dpi": 35})

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(
    ("overrides", "images", "said"),
    [
        (("data=digits", "evaluation=none"), 6, "The run has no evaluation"),
        (("method=regression", "data.source.label=scale_value"), 5, "Classes (the labels are numbers)"),
        (("data=folder", "data.image_size=16", "data.stored_size=16"), 5, "Classes (the data has no labels)"),
    ],
)  # fmt: skip
def test_every_kind_of_data_has_a_page(overrides: tuple[str, ...], images: int, said: str, tmp_path: Path) -> None:
    """Grey digits, numbers as labels, and none: training, neighbours, classes, plane, spectrum, views."""
    few = ("data.batch_size=8", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "evaluation=none")
    if overrides[0] == "data=folder":
        (tmp_path / "images").mkdir()
        for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 20, 24, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        few = (*few, f"data.root={tmp_path / 'images'}")
    elif overrides[0] == "data=digits":
        few = ("data.batch_size=256", *few[1:])
    else:
        few = (*few, "data.source.num_train=48", "data.source.num_test=32")
    assert run_in(tmp_path / "run", config(*few, *overrides)) is None
    found = page_again(tmp_path / "run")
    assert said in found.text and len(list(found.images)) == images, found.text


@pytest.mark.usefixtures("unrendered")
def test_nothing_is_read_twice_or_beyond_its_bound(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Inspection(run, [], 40, 0)
    read: list[int] = []

    def counted(module: Any, images: Split) -> torch.Tensor:
        read.append(images.shape[0])
        return embedded(module, images)

    monkeypatch.setattr("ssl_framework.report.inspection.embedded", counted)
    for picture in pictures_of(False):
        picture.draw(seen, tmp_path / "pictures" / f"{picture.name}.png")
    assert sorted(read) == [20, 20, 20]  # test, train, and train by the untrained network


def test_features_and_votes_are_those_of_the_evaluation(run: Path, tmp_path: Path) -> None:
    """With all images, the confusion's accuracy is the metric of the run."""
    seen = Inspection(run, [], 1000, 0)
    assert (len(seen.train.rows), len(seen.test.rows)) == (48, 32)
    assert not seen.module.training
    result = json.loads((run / "result.json").read_text())
    (metric,) = result["metrics"]
    guess = features.votes(seen, 10)
    assert seen.test.label is not None and seen.train.label is not None
    hits = 100 * (guess == seen.test.label).double().mean().item()
    assert hits == pytest.approx(result["metrics"][metric])
    x = embedded(seen.module, seen.test)
    torch.testing.assert_close(seen.test_x, x)
    probe = KNN(20, 0.1)(Frozen(seen.untrained_x, seen.train.label), Frozen(seen.test_x, seen.test.label))
    assert set(probe) == {metric}


def test_the_untrained_network_is_the_one_the_run_began_with(run: Path) -> None:
    seen = Inspection(run, [], 1000, 0)
    result = json.loads((run / "result.json").read_text())
    (metric,) = result["metrics"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seen.cfg.seed)
        module = page_module(seen)
    assert seen.train.label is not None and seen.test.label is not None
    found = KNN(20, 0.1)(
        Frozen(seen.untrained_x, seen.train.label), Frozen(embedded(module, seen.test), seen.test.label)
    )
    assert found[metric] == pytest.approx(result["baselines"]["untrained"][metric])


def page_module(seen: Inspection) -> Any:
    """A fresh module of the run's config."""
    from ssl_framework.build import build_module

    return build_module(seen.cfg, True, seen.data.pretrain.shape[0]).eval()


def test_neighbours_are_marked_by_class_and_never_the_query_itself(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The train split as its own test split: a loop over cosines says which five come next, and whether right."""
    seen = Inspection(run, [], 1000, 0)
    seen.test, seen.test_x = seen.train, seen.train_x
    boards: list[Any] = []
    monkeypatch.setattr(features, "draw_board", lambda rows, out, **rest: boards.append(rows))
    words = features.draw_neighbours(seen, tmp_path / "x.png")
    assert "5 nearest of 48 train images" in words
    (rows,) = boards
    blocks = [row[:6] for row in rows] + [row[7:] for row in rows]
    label, names = seen.train.label, class_names(seen.train)
    assert label is not None and names is not None and len(blocks) == 10 and all(row[6] is None for row in rows)
    x = seen.train_x.double()
    for number, block in enumerate(blocks):
        query = features.first_of_each_class(seen.train, 10)[number]
        cosines = [float(x[query] @ row / x[query].norm() / row.norm()) for row in x]
        order = sorted((i for i in range(48) if i != query), key=lambda i: -cosines[i])[:5]
        right = [bool(label[i] == label[query]) for i in order]
        assert [tile.text[0] == "✓" for tile in block[1:]] == right
        assert [tile.frame for tile in block[1:]] == [features.RIGHT if r else features.WRONG for r in right]
        assert [tile.text[2:] for tile in block[1:]] == [names[label[i]] for i in order]
        torch.testing.assert_close(block[1].image, seen.train.rows[torch.tensor(order[0])] / 255)


def test_pca_is_that_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 1, 1, 1, 1])
    found, reference = pca(x, 0), PCA(2).fit(x.numpy())
    expected = torch.from_numpy(reference.transform(x.numpy()))
    torch.testing.assert_close(found.xy.abs(), expected.abs().float(), rtol=1e-4, atol=1e-4)
    shares = [round(100 * share) for share in reference.explained_variance_ratio_]
    assert found.axes == (f"component 1 ({shares[0]} % of variance)", f"component 2 ({shares[1]} %)")
    assert torch.equal(pca(x, 0).xy, found.xy)


def test_many_classes_fit_the_picture(run: Path, tmp_path: Path) -> None:
    """Forty classes: no names at the matrix, bars of the ten lowest and highest, ten in colour."""
    seen = Inspection(run, [], 1000, 0)
    names = tuple(f"a rather long name of class {c}" for c in range(40))
    label = torch.arange(80) % 40
    seen.train = seen.test = Split(torch.zeros(80, 3, 32, 32, dtype=torch.uint8), label, names)
    seen.train_x = seen.test_x = torch.eye(40)[label] + 0.01 * torch.randn(80, 40)
    words = features.draw_confusion(seen, tmp_path / "confusion.png")
    assert "100.0 % right" in words and "the ten lowest and the ten highest of 40 classes" in words
    words = features.draw_embedding(seen, tmp_path / "embedding.png", ("pca",))
    assert "the first 10 of 40 classes" in words
    for name in ("confusion", "embedding"):
        assert Image.open(tmp_path / f"{name}.png").width < 1100


def test_a_board_holds_each_image_in_its_place(tmp_path: Path) -> None:
    """Red, gap, green over blue, gap, white: seen in the picture from left to right and top to bottom."""
    red, green, blue = torch.eye(3)[:, :, None, None].expand(3, 3, 64, 64)
    rows = [[Tile(red, "a"), None, Tile(green)], [Tile(blue), None, Tile(torch.ones(1, 32, 32))]]
    draw_board(rows, tmp_path / "board.png", head=["left", "", "right"])
    pixels = np.asarray(Image.open(tmp_path / "board.png").convert("RGB")).astype(int)
    centres = []
    for channel in range(3):
        own = (pixels[..., channel] > 250) & (np.delete(pixels, channel, axis=2).max(axis=2) < 5)
        assert own.sum() > 5000
        centres.append(np.argwhere(own).mean(axis=0))
        assert np.ptp(np.argwhere(own), axis=0) == pytest.approx([np.ptp(np.argwhere(own)[:, 0])] * 2, abs=2)  # square
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = centres
    assert red_y == pytest.approx(green_y, abs=1) and red_x == pytest.approx(blue_x, abs=1)
    assert red_x < green_x - 100 and red_y < blue_y - 90


def test_small_words() -> None:
    assert cut("hourglass", 9) == "hourglass" and cut("class number 17", 9) == "class… 17"
    assert (family("projector.1/knn[k=20,T=0.1]/top1"), parameters("a[n=1]/b[c=2]")) == ("projector.1/knn", "n=1, c=2")
    assert thinned([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(2, 2.0), (3, 5.0)]


def test_images_are_drawn_once_from_the_seed_and_stay_in_order() -> None:
    images = Split(torch.arange(50)[:, None, None, None].to(torch.uint8), torch.arange(50), ("a",))
    some = sampled(images, 10, 3)
    assert some.label is not None and torch.equal(some.rows.flatten().long(), some.label)  # type: ignore[attr-defined]
    assert torch.equal(some.label, some.label.unique()) and len(some.label) == 10
    assert not torch.equal(some.label, torch.arange(10))
    assert sampled(images, 99, 3).shape[0] == 50
    assert class_names(some)[:2] == ["a", "1"]  # type: ignore[index]


def test_pictures_go_to_tensorboard(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    paths = {f"report/{path.stem}": path for path in (run / "pictures").iterdir()}
    names = {f"report/{picture.name}" for picture in pictures_of(False) if picture.name not in OF_TOWERS}
    assert set(events.Tags()["images"]) == names <= set(paths)
    (event,) = events.Images("report/training")
    logged = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
    assert event.step == 12
    assert np.array_equal(logged, np.asarray(Image.open(paths["report/training"]).convert("RGB")))


def test_pictures_go_to_wandb(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, *given, **named: sent.append((given, named)))
    monkeypatch.setattr(page, "pictures_of", lambda tsne: [p for p in pictures_of(tsne) if p.name == "training"])
    Page(40, tsne=False, seed=0).write(copied, [WandbLogger()])
    path = copied / "pictures" / "training.png"
    assert sent == [(("report/training", [str(path)]), {"caption": ["Training"]})]


def test_a_logger_that_refuses_a_picture_is_a_note(run: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, *given, **named: 1 / 0)
    picture = pictures_of(False)[1]
    send(run / "pictures" / "training.png", picture, [WandbLogger()], 0)
    assert capsys.readouterr().out == "note: WandbLogger did not take training.png: division by zero\n"


def test_the_command_draws_runs(copied: Path, tmp_path: Path, capsys: Any) -> None:
    """The same picture as that of the run's own end, and others."""
    run = copied
    first = (run / "pictures" / "neighbours.png").read_bytes()
    for words, expected in (
        (["neighbours"], run / "pictures" / "neighbours.png"),
        (["embedding", "by=tsne"], run / "pictures" / "embedding_tsne.png"),
        (["embedding", "by=pca", "--out", str(tmp_path)], tmp_path / "embedding_pca.png"),
        (["report", "data.source.num_test=24"], run / "report.html"),
    ):
        before = expected.stat().st_mtime_ns if expected.exists() else 0
        main([*words, f"run={run}"])
        assert capsys.readouterr().out.strip() == str(expected) and expected.stat().st_mtime_ns > before
        assert words != ["neighbours"] or expected.read_bytes() == first
    found = Parsed(run / "report.html")
    assert any("t-SNE" in words for _, words in found.images) and "on 24 test images" in found.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "error: say which run: python scripts/show.py report run=outputs/latest"),
        (["run={run}"], "error: say what to show of the run: report, neighbours, embedding or nonfinite, before run="),
        (["neighbours", "run=/nowhere"], "error: the run folder /nowhere does not exist"),
        (["embedding", "run={run}", "by=lda"], "error: by=lda is not known: choose tsne, pca, umap"),
        (["neighbours", "run={run}", "by=pca"], "by=pca is of the word embedding, not of neighbours: leave it out"),
        (["neighbours", "run={run}", "data.rot=x"], "config has no key data.rot"),
        (["report", "run={run}", "--out", "x"], "the page lies in the run folder: leave out --out"),
        (["neighbour", "run={run}"], "'neighbour' (did you mean neighbours?) is neither key=value nor one of mixers,"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(words: list[str], said: str, run: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word.format(run=run) for word in words])
    printed = capsys.readouterr()
    assert said in f"{ended.value} {printed.err}" and "Traceback" not in printed.err and not printed.out


def test_umap_that_is_not_installed_is_refused(run: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["embedding", f"run={run}", "by=umap"])
    assert "umap-learn is not installed: pip install umap-learn, or choose by=tsne" in str(ended.value)


def test_the_report_may_change_and_is_not_in_the_hash(tmp_path: Path) -> None:
    assert "report" in MAY_CHANGE
    assert config_hash(config("report=page")) == config_hash(config())
    older = config()
    OmegaConf.set_struct(older, False)
    del older.report
    assert config_hash(older) == config_hash(config())
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(older, resolve=True))
    refuse_other_config(config("report=page"), RunFolder(tmp_path))  # a multirun goes on with its finished jobs
    with pytest.raises(ValueError, match="holds a run with seed=0"):
        refuse_other_config(config("report=page", "seed=1"), RunFolder(tmp_path))
    with pytest.raises(ValueError, match="num_images is 3: it must be between 20 and 20000"):
        Page(3, tsne=False, seed=0)
