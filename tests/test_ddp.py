"""Two gloo ranks with B samples each equal one process with 2B: loss, gradient, memory, features. One start for all."""

import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_framework import functional
from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.graphs.sbm import BlockModel
from ssl_framework.data.loader import take
from ssl_framework.distributed import (
    gather,
    gather_with_grad,
    own_rows,
    rank,
    same_on_all_ranks,
    sum_of_own_rows,
    united,
    world_size,
)
from ssl_framework.evaluation.during_training.online_linear import OnlineLinear
from ssl_framework.evaluation.features import extract
from ssl_framework.gradient_cache import cached_losses, windowed_losses
from ssl_framework.memory import Queue
from ssl_framework.models.encoder import EMATeacher, Encoder
from ssl_framework.models.graph import GCN
from ssl_framework.models.heads import MLPHead
from ssl_framework.module import SSLModule
from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.msd import MSD
from ssl_framework.objectives.pamc import PamC
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Batch, Clock, Graph, Outputs, Samples
from ssl_framework.views.base import ViewMaker
from ssl_framework.views.graph import GraphViews
from tests.forked import CONTEXT
from tests.objectives.loops import random_unit
from tests.objectives.table import DIM, OBJECTIVES, Case
from tests.small_runs import small

GLOBAL_BATCH, WIDTH, STEPS = 8, 10, 3


class Step(nn.Module):
    """A linear student, the teacher beside it and the objective, wrapped as one: parameters of objectives count too."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.objective = case.build()
        torch.manual_seed(0)
        self.student = nn.Linear(WIDTH, DIM)
        self.teacher = nn.Linear(WIDTH, DIM).requires_grad_(False)

    def forward(self, views: list[Tensor], batch: Batch, clock: Clock) -> Tensor:
        student = self.case.outputs(list(self.student(torch.cat(views)).chunk(len(views))), self.case.student)
        with torch.no_grad():
            teacher = self.case.outputs([self.teacher(view) for view in views], self.case.teacher)
        return self.objective(student, teacher if self.case.teacher else None, batch, clock)["loss"]


class Asked(int):
    """A number of comparisons at once that notes whether anything was divided by it."""

    asked = False

    def __floordiv__(self, length: int) -> int:
        self.asked = True
        return int(self) // length


@functools.cache
def train(name: str, tile: int = functional.TILE) -> dict[str, Any]:
    """Three steps on this rank's share of the data; what came out, as plain tensors.

    Args:
        name: of a case in ``OBJECTIVES``.
        tile: comparisons at once.
    """
    functional.TILE = Asked(tile)
    case = OBJECTIVES[name]
    step = Step(case)
    # Without the broadcast, which would hide that ranks disagree about a memory.
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if world_size() > 1 else step
    trained = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    seen: dict[str, Any] = {"loss": [], "grad": []}
    for number in range(STEPS):
        data = torch.Generator().manual_seed(number)
        views = [own_rows(torch.randn(GLOBAL_BATCH, WIDTH, generator=data)) for _ in range(case.num_views)]
        label = own_rows(case.labels(torch.tensor([0, 1, 0, 1, 0, 0, 2, 3])))
        index = own_rows(torch.arange(GLOBAL_BATCH) + 2 * number)  # some samples come again, some are new
        clock = Clock(number, number, STEPS)  # every step is an epoch
        step.objective.on_epoch(clock)
        loss = wrapped(views, case.batch(index, label, views), clock)
        optimizer.zero_grad()
        loss.backward()
        step.objective.after_backward(clock)
        optimizer.step()
        seen["loss"].append(gather(loss.detach()[None]).mean())
        seen["grad"].append(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
    seen["weights"] = torch.cat([p.detach().flatten() for p in trained])
    seen["memory"] = {name: buffer.clone() for name, buffer in step.objective.named_buffers()}
    seen["by_tiles"] = bool(gather(torch.tensor([float(functional.TILE.asked)])).any())  # on any rank
    return seen


def train_tiled(name: str) -> dict[str, Any]:
    """A few anchors at a time; what never asks how many there may be takes the same steps, and takes them once."""
    return train(name, 3 * GLOBAL_BATCH) if train(name)["by_tiles"] else train(name)


class CachedStep(nn.Module):
    """A wrapped forward pass in micro-batches of three, which meet each other, or a window of keys."""

    def __init__(self, window: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(WIDTH, DIM)
        self.objective = MSD(0.2, 100.0, 0.4, 0.0) if window else SimCLR(0.2)

    def forward(self, views: list[Tensor], divided: bool) -> Tensor:
        keys: list[Outputs | None] = [{"projector": view[:, :DIM]} for view in views]

        def encode(parts: list[Tensor]) -> list[Outputs | None]:
            return [{"projector": self.linear(part)} for part in parts]

        def objective(outputs: list[Outputs | None], rows: slice = slice(0, None)) -> dict[str, Tensor]:
            batch = Batch(views=[], index=torch.arange(0), first=rows.start)
            return self.objective(outputs, keys, batch, Clock(0, 0, 1))

        if not divided:
            return objective(encode(views))["loss"]
        if self.objective.meets_keys:
            return windowed_losses(encode, views, 3, objective)["loss"]
        return cached_losses(encode, self.linear, views, 3, objective, False)["loss"]


def micro_batches(divided: bool, window: bool) -> list[Tensor]:
    """Gradients of two steps, the second to see that the first left nothing behind."""
    step = CachedStep(window)
    wrapped = DistributedDataParallel(step) if world_size() > 1 else step
    grads = []
    for number in range(2):
        data = torch.Generator().manual_seed(number)
        views = [own_rows(torch.randn(GLOBAL_BATCH, WIDTH, generator=data)) for _ in range(2)]
        step.zero_grad()
        wrapped(views, divided).backward()
        grads.append(torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None]))
    return grads


class Tower(nn.Module):
    """A backbone with batch statistics, small enough for a spawn."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.norm(self.conv(x)).relu().mean(dim=(2, 3))}


def others() -> dict[str, Any]:
    """What else must not depend on the number of ranks."""
    torch.manual_seed(0)
    teacher = EMATeacher([], momentum=0.9, shuffle_bn=2).follow(Encoder(Tower(), {}))  # type: ignore[arg-type]
    images = torch.randn(GLOBAL_BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    keys = teacher([own_rows(images)], [0], Clock(3, 0, 10))[0]
    assert keys is not None
    pixels = torch.randint(0, 256, (13, 3, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    computed: list[int] = []

    def embed(x: Tensor) -> Tensor:
        computed.append(len(x))
        return x.flatten(1).float()

    online = OnlineLinear(0.1, 0.9, 1e-4)
    online.weight, online.speed = torch.zeros(4, 11), torch.zeros(4, 11)
    for seed in range(2):
        x = torch.randn(GLOBAL_BATCH, 10, generator=torch.Generator().manual_seed(seed))
        batch = Batch(views=[], index=torch.arange(0), label=own_rows(torch.arange(GLOBAL_BATCH) % 4))
        online._learn_from(SimCLR(0.2), ([{"pooled": own_rows(x)}], None, batch, Clock(0, 0, 1)), {})
    memory = Queue(4, 3)
    torch.manual_seed(rank())
    memory.rows.normal_()
    memory.cursor.fill_(rank())
    same_on_all_ranks(memory.buffers())
    return {
        "synchronised": gather(torch.cat([memory.rows.flatten(), memory.cursor[None]])[None]),
        "keys": gather(keys["pooled"]),
        "features": extract(embed, Split(pixels, None), "cpu"),
        "expected_features": pixels.flatten(1).float(),
        "computed": sum(computed),
        "classifier": online.weight,
    }


def graph_steps() -> dict[str, Any]:
    """Losses and gradients of SimCLR and PamC on views of one graph, each rank of its own nodes."""
    torch.manual_seed(0)
    student = Encoder(GCN(5, 4, 2, 6), {"projector": MLPHead(source="pooled", hidden=[], out=DIM, norm=False)})
    neighbours = PamC(2, DIM, 0.5, 0.1, 5)
    neighbours.allocate(GLOBAL_BATCH)
    joint = OnGraph(student, neighbours)
    wrapped = DistributedDataParallel(joint, broadcast_buffers=False) if world_size() > 1 else joint
    source = BlockModel(GLOBAL_BATCH, 4, 2, 5, degree=6.0, within=0.7, signal=1.0, noise=1.0, least=0.5, seed=0)
    views = GraphViews(2, source, 5, drop_edges=[0.2], mask_features=[0.2])
    seen: dict[str, Any] = {"loss": [], "grad": []}
    for number in range(STEPS):
        generator, nodes = torch.Generator().manual_seed(number), torch.arange(GLOBAL_BATCH)
        whole = views(Samples(nodes, nodes), generator).views  # of all ranks, of which each encodes its own nodes
        own = [Graph(view.x, view.edges, own_rows(view.nodes)) for view in whole]
        neighbours.on_epoch(Clock(number, number, STEPS))
        loss = wrapped(own, own_rows(nodes))
        student.zero_grad()
        loss.backward()
        seen["loss"].append(gather(loss.detach()[None]).mean())
        seen["grad"].append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    return seen


class OnGraph(nn.Module):
    """Student and two objectives wrapped as one."""

    def __init__(self, student: Encoder, neighbours: PamC) -> None:
        super().__init__()
        self.student, self.neighbours, self.objective = student, neighbours, SimCLR(0.2)

    def forward(self, views: list[Graph], index: Tensor) -> Tensor:
        seen, batch, clock = self.student(views), Batch(views, index), Clock(0, 0, 1)
        return self.objective(seen, None, batch, clock)["loss"] + self.neighbours(seen[:1], None, batch, clock)["loss"]


class OwnViews(nn.Module):
    """In the place of a module's views: those of the batch of all ranks, drawn alike, of which each keeps its own."""

    def __init__(self, views: ViewMaker) -> None:
        super().__init__()
        self.views = views
        self.num_views = views.num_views
        self.seed = 0

    def forward(self, samples: Samples) -> Batch:
        batch = self.views(samples, torch.Generator().manual_seed(self.seed))
        return batch._replace(views=[own_rows(view) for view in batch.views], index=own_rows(batch.index))


class ModuleStep(nn.Module):
    """The loss of a module as its forward pass, in order that DDP can wrap it."""

    def __init__(self, module: SSLModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, samples: Samples) -> Tensor:
        return self.module.losses(samples, Clock(0, 0, 1))["loss"]


def towers_steps() -> dict[str, Any]:
    """Losses and gradients of CLIP's two towers as its config builds them, then the metrics of their embeddings."""
    cfg = small("clip", "evaluation=cross_modal", "data.source.num_test=33")  # an odd number: ranks have unequal shares
    module, data = built(cfg)
    metrics = {name: float(x) for name, x in build(cfg.evaluation).cross.score(module, data.test).items()}
    return module_steps(module, data) | {"metrics": metrics}


def series_steps() -> dict[str, Any]:
    """Losses and gradients of SimCLR on waves as its config builds it."""
    return module_steps(*built(small("simclr", "data=waves")))


def built(cfg: DictConfig) -> tuple[SSLModule, DataModule]:
    """A module, whose batch statistics would be of a rank's share, in eval mode, and its data."""
    torch.manual_seed(0)
    data = build_data(cfg)
    return build_module(cfg, True, len(data.pretrain.rows)).eval(), data


def module_steps(module: SSLModule, data: DataModule) -> dict[str, Any]:
    """Losses and gradients of a run's own module, which does not move."""
    module.views = views = OwnViews(module.views)  # type: ignore[assignment]
    wrapped = DistributedDataParallel(ModuleStep(module)) if world_size() > 1 else ModuleStep(module)
    seen: dict[str, Any] = {"loss": [], "grad": []}
    for number in range(STEPS):
        views.seed = number
        loss = wrapped(take(data.pretrain, GLOBAL_BATCH * number + torch.arange(GLOBAL_BATCH)))
        module.zero_grad()
        loss.backward()
        seen["loss"].append(gather(loss.detach()[None]).mean())
        seen["grad"].append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    seen["trained"] = [name for name, p in module.named_parameters() if p.requires_grad]
    return seen


def gather_gradient() -> Tensor:
    """Each rank's loss weighs its own row against all rows: the gradient of every row comes from every rank."""
    x = (torch.arange(2.0)[rank() : rank() + 1] + 1).requires_grad_()
    everyone = gather_with_grad(x)
    (everyone * torch.tensor([1.0, 10.0]) * (rank() + 1)).sum().backward()
    assert x.grad is not None
    return x.grad


def sums_of_own_rows() -> list[Tensor]:
    """By a backend that scatters sums, and by one that does not."""
    rows = torch.arange(8.0).view(4, 2) * (rank() + 1)
    scattered = sum_of_own_rows(rows)

    def lacks(*args: Any, **named: Any) -> None:
        raise RuntimeError("Backend mpi does not support reduce_scatter_tensor")

    with mock.patch.object(dist, "reduce_scatter_tensor", lacks):
        return [scattered, sum_of_own_rows(rows)]


def work(process: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=process, world_size=2)
    seen: dict[str, Any] = {name: train(name) for name in OBJECTIVES}
    seen["tiled"] = {name: train_tiled(name) for name in OBJECTIVES}
    seen["micro_batches"] = {window: micro_batches(divided=True, window=window) for window in (False, True)}
    seen["others"], seen["gather_gradient"] = others(), gather_gradient()
    seen["own_rows"] = sums_of_own_rows()
    seen["series"], seen["towers"], seen["graph"] = series_steps(), towers_steps(), graph_steps()
    seen["united"] = united({"met by both": f"last by {process}", f"met by {process}": "broken"})
    torch.save(seen, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, (port, str(folder)), nprocs=2, start_method=CONTEXT.get_start_method())
    yield [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_equal_one(name: str, two_ranks: list[dict[str, Any]]) -> None:
    one = train(name)
    for each in two_ranks:
        for key in ("loss", "grad"):
            for got, expected in zip(each[name][key], one[key], strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each[name]["weights"], one["weights"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_with_tiled_losses_equal_one_without(name: str, two_ranks: list[dict[str, Any]]) -> None:
    one = train(name)
    for each in two_ranks:
        for got, expected in zip(each["tiled"][name]["grad"], one["grad"], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_what_compares_by_tiles_is_found(two_ranks: list[dict[str, Any]]) -> None:
    found = {name for name in OBJECTIVES if two_ranks[0][name]["by_tiles"]}
    assert {"simclr", "mocov2", "supcon", "core_tuning", "sogclr", "instance_discrimination", "cacr", "conr"} <= found
    assert not {"byol", "simsiam", "vicreg"} & found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_memory_is_the_same_on_both_ranks(name: str, two_ranks: list[dict[str, Any]]) -> None:
    first, second = (each[name]["memory"] for each in two_ranks)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key])


@pytest.mark.parametrize("name", [name for name, case in OBJECTIVES.items() if "index" in case.build().requires])
def test_state_of_samples_is_that_of_one_process(name: str, two_ranks: list[dict[str, Any]]) -> None:
    one = train(name)["memory"]
    assert one["bank.visited"].sum() == GLOBAL_BATCH + 2 * (STEPS - 1)
    torch.testing.assert_close(two_ranks[1][name]["memory"], one, rtol=1e-5, atol=1e-5)


def test_the_table_covers_every_method() -> None:
    methods = {path.stem for path in (Path(__file__).parent.parent / "configs" / "method").glob("*.yaml")}
    assert methods <= OBJECTIVES.keys()


@pytest.mark.parametrize("window", [False, True])
def test_two_ranks_in_micro_batches_equal_one_undivided(window: bool, two_ranks: list[dict[str, Any]]) -> None:
    expected = micro_batches(divided=False, window=window)
    for each in two_ranks:
        torch.testing.assert_close(each["micro_batches"][window], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("series", series_steps), ("graph", graph_steps)])
def test_two_ranks_on_other_modalities_equal_one(
    name: str, steps: Callable[[], dict[str, Any]], two_ranks: list[dict[str, Any]]
) -> None:
    one = steps()
    for each in two_ranks:
        for key in ("loss", "grad"):
            for got, expected in zip(each[name][key], one[key], strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    first = one["grad"][0]
    assert (torch.cat([g.flatten() for g in first.values()]) if isinstance(first, dict) else first).abs().max() > 1e-3


def test_two_ranks_with_two_towers_equal_one(two_ranks: list[dict[str, Any]]) -> None:
    one = towers_steps()
    for each in two_ranks:
        torch.testing.assert_close(each["towers"]["loss"], one["loss"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(each["towers"]["grad"], one["grad"], rtol=1e-5, atol=1e-6)
        assert each["towers"]["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    assert one["grad"][0].keys() == set(one["trained"]) and "objective.log_scale" in one["trained"]
    assert min(grad.abs().max() for grad in one["grad"][0].values()) > 1e-3  # of every layer of either tower


def test_shuffled_batch_normalisation_does_not_depend_on_the_ranks(two_ranks: list[dict[str, Any]]) -> None:
    alone = others()["keys"]
    for each in two_ranks:
        torch.testing.assert_close(each["others"]["keys"], alone)


def test_memories_begin_as_those_of_the_first_rank(two_ranks: list[dict[str, Any]]) -> None:
    (alone,) = others()["synchronised"]
    for each in two_ranks:
        assert torch.equal(each["others"]["synchronised"], torch.stack([alone, alone]))


def test_features_are_complete_in_order_and_computed_once(two_ranks: list[dict[str, Any]]) -> None:
    for each in two_ranks:
        assert torch.equal(each["others"]["features"], each["others"]["expected_features"])
        assert each["others"]["computed"] == 7  # 13 images: 7 and 6, the last rank repeats one to fill its share


def test_the_online_classifier_makes_the_step_of_the_global_batch(two_ranks: list[dict[str, Any]]) -> None:
    alone = others()["classifier"]
    assert alone.abs().max() > 0.01
    for each in two_ranks:
        torch.testing.assert_close(each["others"]["classifier"], alone, rtol=1e-6, atol=1e-7)


def test_gather_sums_gradients_over_ranks(two_ranks: list[dict[str, Any]]) -> None:
    assert [each["gather_gradient"].item() for each in two_ranks] == [1.0 * (1 + 2), 10.0 * (1 + 2)]


def test_sums_of_own_rows_do_not_depend_on_the_backend(two_ranks: list[dict[str, Any]]) -> None:
    expected = 3 * torch.arange(8.0).view(2, 2, 2)
    for number, each in enumerate(two_ranks):
        assert all(torch.equal(own, expected[number]) for own in each["own_rows"])


def test_what_each_rank_has_met_is_known_to_all(two_ranks: list[dict[str, Any]]) -> None:
    everything = {"met by both": "last by 1", "met by 0": "broken", "met by 1": "broken"}
    assert [each["united"] for each in two_ranks] == [everything, everything]
    assert united({"alone": "broken"}) == {"alone": "broken"}


def grouped_loss(groups: int, z0: Tensor, z1: Tensor) -> Tensor:
    """CLIP's loss inside parts of the global batch."""
    objective = CLIP(0.1, 100, 0.1, "group", groups=groups).double()
    return objective([{"projector": z0}, {"projector": z1}], None, Batch([], torch.arange(0)), Clock(0, 0, 1))["loss"]


def work_in_groups(process: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=process, world_size=4)
    own = slice(2 * process, 2 * process + 2)
    found = {}
    for groups in (1, 2, 4, 8):
        z0, z1 = (random_unit(8, 5, v)[own].requires_grad_() for v in range(2))
        value = grouped_loss(groups, z0, z1)
        value.backward()
        found[groups] = (value.detach(), z0.grad, z1.grad)
    with pytest.raises(ValueError, match=r"objective\.groups is 3, but 4 ranks train, and neither divides the other"):
        grouped_loss(3, z0, z1)
    torch.save(found, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


def test_four_ranks_in_groups_equal_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work_in_groups, (port, str(tmp_path)), nprocs=4, start_method=CONTEXT.get_start_method())
    ranks = [torch.load(tmp_path / f"{process}.pt", weights_only=True) for process in range(4)]
    for groups in (1, 2, 4, 8):
        z0, z1 = (random_unit(8, 5, v).requires_grad_() for v in range(2))
        value = grouped_loss(groups, z0, z1)
        value.backward()
        torch.testing.assert_close(torch.stack([rank[groups][0] for rank in ranks]).mean(), value.detach())
        for side, z in ((1, z0), (2, z1)):  # DDP takes the mean over ranks
            torch.testing.assert_close(torch.cat([rank[groups][side] for rank in ranks]) / 4, z.grad)
