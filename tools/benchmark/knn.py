"""k-nearest neighbours: ours against faiss's flat index, in time and in memory."""

import json
import subprocess
import sys

import torch

from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.knn import KNN
from tools.benchmark.peers import need
from tools.benchmark.timing import Figure, figure, interleaved, peak_extra_mib, ratio

K, CLASSES = 200, 10


def run(quick: bool) -> dict[str, Figure]:
    """A bank of 50,000 rows of 512 numbers, 10,000 queries, k = 200 (quick: a tenth of both).

    ``ours_over_faiss``: seconds of the whole probe, votes included, over those of the search alone in faiss.
    ``peak_extra_mib``: the process's peak beyond the features.
    """
    bank, queries = features(quick)
    faiss = need("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    array = bank.x / bank.x.norm(dim=1, keepdim=True), queries.x / queries.x.norm(dim=1, keepdim=True)

    def search() -> None:
        index = faiss.IndexFlatIP(array[0].shape[1])
        index.add(array[0].numpy())
        index.search(array[1].numpy(), K)

    seconds = interleaved({"ours": lambda: KNN(K, 0.1)(bank, queries), "faiss": search}, repeats=1 if quick else 5)
    command = [sys.executable, "-m", "tools.benchmark.knn", str(int(quick))]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "ours_over_faiss": ratio(seconds["ours"], seconds["faiss"]),
        "peak_extra_mib": figure([found]),
        "ours_seconds": figure(seconds["ours"]),
    }


def features(quick: bool) -> tuple[Frozen, Frozen]:
    """Bank and queries: random features with random classes."""
    scale = 10 if quick else 1
    torch.manual_seed(0)
    sets = [(torch.randn(n // scale, 512), torch.randint(CLASSES, (n // scale,))) for n in (50_000, 10_000)]
    return Frozen(*sets[0]), Frozen(*sets[1])


def measure(quick: bool) -> float:
    """Peak memory in MiB beyond the features."""
    bank, queries = features(quick)
    KNN(K, 0.1)(Frozen(bank.x[:1000], bank.y[:1000]), Frozen(queries.x[:10], queries.y[:10]))  # libraries are loaded
    return peak_extra_mib(lambda: KNN(K, 0.1)(bank, queries))


if __name__ == "__main__":
    print(json.dumps(measure(bool(int(sys.argv[1])))))
