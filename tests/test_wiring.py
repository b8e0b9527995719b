"""Every wrong combination is refused when the run is built, in one sentence that names the key to change."""

import ast
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import ssl_framework
from ssl_framework.build import build, build_data, build_module
from ssl_framework.loading import load_run_config
from ssl_framework.models.encoder import EMATeacher
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.trust import is_trusted
from ssl_framework.training.place import local_processes
from ssl_framework.training.trainer import build_trainer
from tests.small_runs import SMALL, config, run_in, skip_without, small


def refused(*overrides: str) -> str:
    """The one line that building this configuration ends in."""
    cfg = config(*SMALL, *overrides)
    with pytest.raises(ValueError) as error:
        data = build_data(cfg)
        build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


def test_a_feature_mixer_without_negatives_names_both_ways_out() -> None:
    message = refused("method=byol", "feature_mixer=mochi")
    assert message == (
        "MoCHi needs negatives, but BYOL has none: choose method=dcl, dclw, g_simclr, grace, "
        "m_mix, mocov2, reweight_head, "
        "simclr, symmetric_relu_head or feature_mixer=none"
    )
    message = refused("method=simclr", "feature_mixer=feature_transform")
    assert message == (
        "FeatureTransform needs negatives shared by all queries, but SimCLR has none: choose method=mocov2 or "
        "feature_mixer=none"
    )
    oracle = ("objective.class_oracle=true", "objective.queue.size=24")
    message = refused("method=mocov2", "feature_mixer=feature_transform", *oracle)
    assert message.startswith(
        "FeatureTransform needs negatives shared by all queries, but MoCo has none: choose feature_mixer=none"
    )


@pytest.mark.parametrize("method", ["supcon", "mv_dhel"])
def test_feature_mixers_are_refused_where_they_would_be_ignored(method: str) -> None:
    assert "feature_mixer=none" in refused(f"method={method}", "feature_mixer=mochi")


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=simclr", "feature_mixer=mochi"),
        ("method=dcl", "feature_mixer=synco"),
        ("method=dclw", "feature_mixer=hallucinator"),
        ("method=simclr", "feature_mixer=feature_transform", "feature_mixer.alpha_negative=null"),
    ],
)
def test_negatives_of_the_batch_are_mixed_too(overrides: tuple[str, ...]) -> None:
    assert build_module(config(*SMALL, *overrides), has_labels=True).objective.feature_mixer is not None


def test_the_class_oracle_needs_labels() -> None:
    with pytest.raises(ValueError, match="MoCo needs labels, but data=shapes has none for pretraining"):
        build_module(small("mochi", "objective.class_oracle=true"), has_labels=False)


@pytest.mark.parametrize("method", ["mocov2", "byol"])
def test_a_missing_teacher(method: str) -> None:
    said = "needs a teacher, but the config has teacher=none: choose teacher=ema, moco, momentum or another objective"
    assert said in refused(f"method={method}", "teacher=none")


def test_an_unread_mixer() -> None:
    message = refused("method=supcon", "mixer=mixup")
    assert message == (
        "SupCon does not read what Mixup produces: choose method=byol, dcl, dclw, decoupled_mixup, "
        "g_simclr, grace, m_mix, "
        "mocov2, mocov3, regression, reweight_head, simclr, supervised, symmetric_relu_head or mixer=none"
    )


def test_a_single_view() -> None:
    message = refused("method=simclr", "views.groups=[{count: 1}]")
    assert message.startswith("SimCLR takes 2 views of a sample from each encoder, but student_views names 1 of the 1")


def test_more_views_than_the_loss_is_defined_on() -> None:
    message = refused("method=simclr", "views.groups.0.count=3")
    assert message.startswith("SimCLR takes 2 views of a sample from each encoder, but student_views names 3 of the 3")
    message = refused("method=byol", "teacher_views=[0]")
    assert message.startswith("BYOL takes 2 views of a sample from each encoder, but teacher_views names 1 of the 2")


def test_supcon_takes_any_number_of_views() -> None:
    cfg = small("supcon", "views.groups.0.count=4")
    assert build_module(cfg, has_labels=True).views.num_views == 4


@pytest.mark.parametrize("key", ["student_views", "teacher_views"])
def test_a_view_that_does_not_exist(key: str) -> None:
    assert f"{key} is [2], but the views are numbered 0 to 1" in refused("method=mocov2", f"{key}=[2]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("method=simclr objective=debcse teacher=momentum", "DebCSE reads view 0 as text, but that view is of image"),
        ("method=simclr objective=coca head=tokens", "CoCa reads view 1 as text, but that view is of image"),
        (
            "method=simclr objective=villa data=captioned_shapes",
            "ViLLA reads view 1 as text, but that view is of image",
        ),
        ("method=pairing_net objective=villa", "ViLLA reads view 0 as image, but that view is of series"),
        ("method=more objective=biovil head=linear", "BioViL reads view 2 as text, but that view is of series"),
        ("method=lejepa backbone=text_tiny", "takes texts or sequences, but view 0 is of image, 3 x 32 x 32"),
        ("method=supervised backbone=series_lstm", "takes series, but view 0 is of image, 3 x 32 x 32"),
        (
            "method=cleanclip objective=mocov2 head=mocov2 teacher=moco",
            "MoCo reads nothing of the student's tower for text, which nothing would train",
        ),
        (
            "method=deep_cotraining objective=cmim head=cmim labels=all",
            "CMIM reads nothing of second_features, a backbone that the method has beside the first",
        ),
        ("method=codiemb tuning=frozen", "nothing is left to train: the backbone is frozen, and projector"),
        ("method=clip head=none", "CLIP compares projector of all towers, which is 192 values of image and 64 values"),
        ("method=gram head=simcse", "192 values of image, 64 values of text and 64 values of series: choose a head"),
        ("method=cl2l objective=whitened_cse head=simcse", "WhitenedCSE compares pooled of all towers, which is 192"),
        ("method=simclr objective=lejepa head=lejepa", "LeJEPA takes at least 4 views of a sample"),
        (
            "method=simcse head=ibot",
            "SimCSE reads one vector a sample of projector, which gives one for each of its",
        ),
        ("method=lejepa backbone=vit_micro head=ibot", "LeJEPA reads one vector a sample of projector"),
        ("method=mae head=cmim", "MAE reads tokens of decoder, which gives one vector a sample: choose head=mae or"),
        ("method=align objective=coconut head=classifier", "COCONUT reads nothing of the student's tower for text"),
        ("method=any_loss objective=simctg", "such as backbone=vit_tiny on pictures or text_tiny on texts, or"),
        ("method=smog teacher=frozen", "but teacher.heads is []: choose teacher=ema, moco, momentum or another"),
        (
            "method=supcon generated=shapes",
            "needs labels, but generated images have none: choose generated=none",
        ),
        ("method=mochi views=instance", "teacher_views is [1], but the views are numbered 0 to 0: choose more views"),
        ("method=simclr objective=bsim", "set mixer.add=true and choose mixer=adamixup, alignmix"),
        ("method=clip tuning=lora", "towers of image, text: choose it for one of them, +tuning@student.tuning.text="),
        ("method=mv_infonce views=genview", "views show generated images of every sample, but the data have none"),
    ],
)
def test_what_would_have_ended_in_the_first_step(overrides: str, words: str) -> None:
    assert words in refused(*overrides.split())


def test_labels_of_every_sample_in_a_method_of_some() -> None:
    assert build_data(small("wad", "labels=all", "labels.share=1.0", "labels.known=0.5")).pretrain.labelled


QUESTIONS = "views=audio_remixmatch, remixmatch, scatsimclr"


@pytest.mark.parametrize(
    ("overrides", "asked", "instead"),
    [
        ("method=ts2vec views=series", "which points two crops have in common", "series: views=ts2vec"),
        ("method=tera views=audio_once", "what altered views were before", "sound: views=tera"),
        ("method=pairing_net data=waves views=series", "which fragments each pair is of", "series: views=fragments"),
        ("method=scatsimclr views.noise=null", "how the last view was changed", f"image: {QUESTIONS}"),
        ("method=remixmatch views.noise=null", "how the last view was changed", f"image: {QUESTIONS}"),
        (
            "method=pixpro data=spoken_digits",
            "where in the picture each view was cut",
            "sound: views of pictures alone,",
        ),
    ],
)
def test_what_an_objective_asks_and_the_views_do_not_tell(overrides: str, asked: str, instead: str) -> None:
    kind, choice = instead.split(": ")
    message = refused(*overrides.split())
    assert message.partition(" has to know ")[2] == (
        f"{asked}, which these views of {kind} do not tell: choose {choice} or another objective"
    )


def test_jobs_on_the_same_data_read_it_once_and_others_do_not_share_it() -> None:
    first = build_data(config(*SMALL))
    assert build_data(config(*SMALL, "method=mocov2", "seed=1", "data.batch_size=4")).train.rows is first.train.rows
    other = build_data(config(*SMALL, "data.source.num_train=40"))
    assert len(other.train.rows) == 40 and len(first.train.rows) == 48
    assert build_data(config(*SMALL)).train.rows is not first.train.rows  # one data set at a time is kept


def test_labels_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("supcon")
    with pytest.raises(ValueError, match="SupCon needs labels, but data=shapes has none for pretraining"):
        build_module(cfg, has_labels=False)


@pytest.mark.parametrize(("method", "name"), [("isogclr", "ISogCLR"), ("simple_contrastive", "InstanceDiscrimination")])
def test_a_number_of_samples_that_is_not_known(method: str, name: str) -> None:
    with pytest.raises(ValueError) as error:
        build_module(small(method), has_labels=True)
    assert str(error.value) == (
        f"{name} keeps a state of every training sample, but how many data=shapes has is not known: "
        "choose another data set or a method without such a state"
    )


def test_a_count_of_negatives_instead_of_a_share() -> None:
    message = refused("method=hard_contrastive", "objective.loss.share=4095")
    assert message == "objective.loss.share is 4095: it must be above 0 and at most 1"


def test_memories_are_not_sent_between_ranks_in_every_step() -> None:
    """DDP leaves out what the module names; the statistics of the encoder's normalisation are sent."""
    module = build_module(small("mocov2"), has_labels=True)
    buffers = {name for name, _ in module.named_buffers()}
    left_out = set(module._ddp_params_and_buffers_to_ignore)
    assert left_out == {"objective.queue.rows", "objective.queue.cursor"} and left_out < buffers


def test_unknown_heads() -> None:
    message = refused("method=mocov2", "teacher.heads=[projektor]")
    assert message == (
        "teacher.heads names ['projektor'], but the student has ['projector']: choose another teacher=<name> or "
        "head=<name>, or set teacher.heads"
    )
    message = refused("method=simclr", "student.heads.projector.source=poled")
    assert message.startswith(
        "a head has source=poled, but the encoder offers ['map', 'places', 'pooled'] at this point: choose"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.temperature=0", "objective.temperature is 0"),
        ("optimizer.lr_per_256=0", "optimizer.lr_per_256 is 0"),
        ("optimizer.warmup=10", "optimizer.warmup is 10"),
        ("data.batch_size=1", "data.batch_size is 1"),
        ("data.batch_size=64", "data.batch_size is 64, but the training set has only 48 samples"),
        ("data.batch_size=many", "data.batch_size is many"),
        ("backbone.name=resnet999", "backbone.name is resnet999, which timm does not know"),
    ],
)
def test_bad_values(override: str, words: str) -> None:
    assert words in refused(override)


def test_images_of_a_size_that_the_backbone_cannot_take() -> None:
    skip_without("test_coatnet")
    message = refused("backbone.name=test_coatnet", "data.image_size=40")
    assert "cannot take 3 x 40 x 40 images" in message and "such as 32, 64" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("teacher.momentum=1.5", "teacher.momentum is 1.5"),
        ("teacher.shuffle_bn=1", "teacher.shuffle_bn is 1"),
        ("objective.queue.size=0", "objective.queue.size is 0"),
    ],
)
def test_bad_values_of_moco(override: str, words: str) -> None:
    assert words in refused("method=mocov2", override)


def test_a_queue_smaller_than_the_batch_stops_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"8 keys but the queue holds 4.*objective\.queue\.size"):
        run_in(tmp_path, small("mocov2", "objective.queue.size=4"))


def test_more_hard_negatives_than_the_queue_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"feature_mixer\.num_hard is 30.*only 24 negatives"):
        run_in(tmp_path, small("mochi", "feature_mixer.num_hard=30"))


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is not finite at step \d+ on rank 0 \(loss="):
        run_in(tmp_path, small("simclr", "optimizer.lr_per_256=1e30"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs is 0"),
        (["trainer.devices=0"], "trainer.devices is 0"),
        (["trainer=cpu", "trainer.precision=16-mixed"], "which needs a GPU, .*: choose bf16-mixed or 32-true"),
    ],
)
def test_trainers_that_cannot_be(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        run_in(tmp_path, small("simclr", *overrides))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose trainer=cpu or trainer=ddp_cpu"):
        build_trainer(config("trainer=auto", "trainer.accelerator=gpu").trainer, tmp_path, [], [])
    with pytest.raises(ValueError, match="choose trainer=cpu or ddp_cpu"):
        local_processes(config("trainer=ddp").trainer)


def test_a_batch_that_does_not_divide_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = build_data(config(*SMALL, "data.batch_size=9"))
    monkeypatch.setattr("ssl_framework.data.datamodule.world_size", lambda: 2)
    with pytest.raises(
        ValueError, match=r"data\.batch_size is 9 for all 2 processes together: make it a multiple of 2"
    ):
        data.train_dataloader()


def test_the_teacher_follows_the_student_and_has_only_its_heads() -> None:
    module = build_module(small("byol"), has_labels=True)
    assert isinstance(module.teacher, EMATeacher)
    assert list(module.teacher.encoder.heads) == ["projector"]
    with torch.no_grad():
        for p in module.student.parameters():
            p.add_(1.0)
    before = [p.clone() for p in module.teacher.encoder.parameters()]
    momentum = module.teacher.update(module.student, module_clock(step=5, total=10))
    assert momentum == pytest.approx(0.99 + (1 - 0.99) * 0.5)  # half-way up the cosine
    for was, now in zip(before, module.teacher.encoder.parameters(), strict=True):
        torch.testing.assert_close(now, was + (1 - momentum))


def module_clock(step: int, total: int):  # type: ignore[no-untyped-def]
    from ssl_framework.types import Clock

    return Clock(step, 0, total)


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    return folder


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "torch.nn.modules.module.torch.load",
        "ssl_framework.commands.train.subprocess.Popen",
        "ssl_framework.training.launch.descend",
        "ssl_framework.nothing.Here",
        7,
    ],
)
def test_a_run_folder_cannot_name_foreign_code(target: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"asks to construct .*nothing was loaded"):
        load_run_config(write(tmp_path, {"logger": {"x": [{"_target_": target, "_args_": ["true"]}]}}))


def test_a_run_folder_cannot_interpolate(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: ${oc.env:HOME}\n")
    with pytest.raises(ValueError, match="is stored resolved: nothing was loaded"):
        load_run_config(tmp_path)


def test_every_target_of_the_shipped_configs_is_trusted() -> None:
    for method in ("simclr", "mochi", "byol"):
        load = OmegaConf.to_container(config(f"method={method}", "logger=csv"))
        found: list[str] = []

        def walk(node: object, found: list[str] = found) -> None:
            if isinstance(node, dict):
                found += [v for k, v in node.items() if k == "_target_"]
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(load)
        assert len(found) >= 8 and all(is_trusted(name) for name in found)


def test_missing_run_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_run_config(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml: it is not a run folder"):
        load_run_config(tmp_path)


def test_no_method_is_named_in_python() -> None:
    """What a user is told to choose is read from configs; docstrings may name methods, and so may their own files."""
    package = Path(ssl_framework.__file__).parent
    words = {file.stem for file in (CONFIGS / "method").glob("*.yaml")} - {
        *("regression", "mae"),  # elsewhere, too
        *("align", "count", "more"),  # words
    }
    named = re.compile(rf"(?<![\w.])({'|'.join(words)}|(?:method|objective)=[a-z]\w*)(?!\w)")
    files = [path for path in package.rglob("*.py") if package / "objectives" not in path.parents]
    assert len(files) > 100 and named.search("choose method=regression") and named.search("(simclr, byol)")
    found = [f"{path.name}: {text}" for path in files for text in literals(path) if named.search(text)]
    assert found == []


def literals(path: Path) -> list[str]:
    """The strings of a file that are no docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    said = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [str(node.value) for node in strings if id(node) not in said]


def test_an_empty_choice_is_nothing() -> None:
    assert build(config("mixer=none").mixer) is None
