"""A graph of torch_geometric from a file: a saved ``Data``, or the ``processed/data.pt`` of one of its data sets.

No code of the file is run: ``torch.load(weights_only=True)`` makes tensors, plain Python values and ``Data`` with its
storage, and refuses all else. A ``Data.to_dict()`` that was saved, and an .npz of arrays, need no package.

Rules: edges go both ways; an edge that is there twice counts once, and one from a node to itself is left out; features
stay as they are; nodes of ``test_mask`` are scored and all others train, whatever other masks say, and where there is
no such mask a share is held out; of several masks side by side the first counts.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Seed, Several, guarded
from ssl_framework.data.base import Split, check_split, holdout
from ssl_framework.data.graphs.base import Whole, both_ways

NEEDED = ("x", "edge_index")


@guarded
class PyGGraph:
    """The nodes of one graph: x [n, F], edge_index [2, E], and, if it is there, y [n] and test_mask [n].

    Args:
        root: folder of the file.
        file: of ``torch.save`` or .npz, which begins at the root.
        features: F, how many there are; another number is refused with the right one.
        test_fraction: of the nodes, held out for scoring where there is no test_mask.
        seed: of the held-out share.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it holds no such graph, or torch_geometric is not installed and its classes are in it.
    """

    def __init__(self, root: str, file: str, features: Several, test_fraction: BelowOne, seed: Seed = 0) -> None:
        self.path = Path(root).expanduser() / file
        self.features = features
        self.test_fraction = test_fraction
        self.seed = seed
        self.content: dict[str, Tensor] | None = None
        self.whole: Whole | None = None

    def load(self, split: str) -> Split:
        """[N] int64 node numbers; classes [N] int64, or numbers float32 where y is of floats; ValueError for an unknown
        split."""
        check_split(split)
        content = self.read()
        y, count = content.get("y"), len(content["x"])
        classes = None if y is None or y.is_floating_point() else y
        held = content.get("test_mask")  # [n]
        if held is None:
            held = holdout(classes, count, self.test_fraction, self.seed)
        index = (held if split == "test" else ~held).nonzero()[:, 0]  # [N]
        names = () if classes is None else tuple(f"class {k}" for k in range(int(classes.max()) + 1))
        return Split(index, None if y is None else y[index], names)

    def graph(self) -> Whole:
        """Read when it is asked for first."""
        if self.whole is None:
            content = self.read()
            self.whole = Whole(content["x"], both_ways(content["edge_index"], len(content["x"])))
        return self.whole

    def read(self) -> dict[str, Tensor]:
        """The tensors, read once."""
        if self.content is None:
            self.content = self.checked(tensors_of(self.path))
        return self.content

    def checked(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that are read, in the dtypes that everything else takes."""
        if missing := [name for name in NEEDED if name not in found]:
            raise ValueError(
                f"{self.path} has no {missing[0]}, but {', '.join(found) or 'no tensors'}: save a Data of both"
            )
        x, edges = found["x"], found["edge_index"]
        if x.ndim != 2 or x.shape[1] != self.features:
            shape = " x ".join(map(str, x.shape))
            cure = f"set data.features={x.shape[1]}" if x.ndim == 2 else "save features [n, F]"
            raise ValueError(f"{self.path} has x of {shape}, but data.features is {self.features}: {cure}")
        if edges.ndim != 2 or len(edges) != 2 or edges.is_floating_point():
            raise ValueError(f"{self.path} has an edge_index that is no [2, E] of whole numbers: save it as such")
        if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < len(x):
            raise ValueError(f"{self.path} has edges beyond its {len(x):,} nodes, numbered from 0: save it anew")
        content = {"x": x.float(), "edge_index": edges.long()}
        if not content["x"].isfinite().all():
            raise ValueError(f"{self.path} has features that are not finite: give every node all numbers")
        if (y := found.get("y")) is not None:
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            if y.shape != x.shape[:1] or (not y.is_floating_point() and int(y.min()) < 0):
                raise ValueError(
                    f"{self.path} has a y that is not one class or number a node: save such, or leave y out"
                )
            content["y"] = y.float() if y.is_floating_point() else y.long()
        if (mask := found.get("test_mask")) is not None:
            mask = (mask[:, 0] if mask.ndim == 2 else mask).bool()
            if mask.shape != x.shape[:1] or not mask.any() or mask.all():
                raise ValueError(f"{self.path} has a test_mask that does not part its nodes in two: save it anew")
            content["test_mask"] = mask
        return content


def tensors_of(path: Path) -> dict[str, Tensor]:
    """What a file holds, by name.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read without running code, or is no graph.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: set data.root to its folder, and data.file to its name")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        with torch.serialization.safe_globals(classes()):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        what = str(error).split(". ")[0].partition("\n")[0]
        more = "" if classes() else ", or pip install -e '.[graph]', without which no Data is read"
        raise ValueError(
            f"{path} is no file of tensors or of a Data ({what}): save a Data or its to_dict(){more}"
        ) from error
    if isinstance(found, tuple) and found:  # of a data set: all of it, where each graph begins, and the class
        if len(found) > 1 and isinstance(found[1], Mapping):
            raise ValueError(f"{path} holds several graphs, but a sample here is a node of one: save one of them")
        found = found[0]
    found = found.to_dict() if hasattr(found, "to_dict") else found
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}: save a Data, or its to_dict()")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def classes() -> list[Any]:
    """The classes that a saved ``Data`` is made of; none without the package."""
    with contextlib.suppress(ImportError):
        from torch_geometric.data.data import Data, DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import GlobalStorage

        return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]
    return []
