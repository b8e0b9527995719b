"""Classes that stored configs name and that have moved since: old run folders load, and a hash outlives a move."""

from typing import Any

MODULES = {
    ("data.files", "data.images.files"): "FilesSource",
    ("data.folder", "data.images.folder"): "FolderSource",
    ("data.generated", "data.images.generated"): "Arrays",
    ("data.litdata_shards", "data.images.litdata_shards"): "LitDataSource write_litdata",
    ("data.pseudo_labels", "data.images.denoising_clusters"): "DenoisingClusters",
    ("data.shapes", "data.images.shapes"): "Shapes",
    ("data.sources", "data.images.arrays"): "Digits TorchvisionSource",
    ("data.store", "data.images.store"): "StoreSource",
    ("data.views", "views.image"): "Views",
    ("data.webdataset_shards", "data.images.webdataset_shards"): "WebDatasetSource write_webdataset",
    ("evaluation.calibration", "evaluation.probes.calibration"): "Calibration",
    ("evaluation.clusters", "evaluation.probes.clusters"): "Clustering",
    ("evaluation.dense", "evaluation.after_training.dense"): "Correspondence Dense Segmentation",
    ("evaluation.few_labels", "evaluation.probes.few_labels"): "FewLabels",
    ("evaluation.few_labels", "evaluation.probes.few_shot"): "FewShot Transport",
    ("evaluation.finetune", "evaluation.after_training.finetune"): "FineTune",
    ("evaluation.leave_one_out", "evaluation.probes.leave_one_out"): "LeaveOneOut TrainLeaveOneOut",
    ("evaluation.linear_augmented", "evaluation.after_training.linear_augmented"): "LinearAugmented",
    ("evaluation.linear_auto", "evaluation.probes.linear_auto"): "LinearAuto",
    ("evaluation.long_tail", "evaluation.probes.long_tail"): "LongTail",
    ("evaluation.naive_bayes", "evaluation.probes.naive_bayes"): "NaiveBayes",
    ("evaluation.neural_collapse", "evaluation.probes.neural_collapse"): "ClassifierCollapse NeuralCollapse",
    ("evaluation.online", "evaluation.during_training.online_linear"): "OnlineLinear",
    ("evaluation.out_of_distribution", "evaluation.probes.out_of_distribution"): "OutOfDistribution",
    ("evaluation.probes", "evaluation.probes.knn"): "KNN",
    ("evaluation.probes", "evaluation.probes.linear"): "LinearProbe LinearSGD",
    ("evaluation.probes", "evaluation.probes.retrieval"): "Retrieval",
    ("evaluation.regression", "evaluation.probes.regression"): "KNNRegression Ridge",
    ("evaluation.scores", "evaluation.during_training.view_scores"): "ViewScores",
    ("stages", "training.stages"): "StageClusters",
    ("sweep", "commands.sweep"): "SweepTable",
}
"""Where classes were when configs first named them, and where they are: (old module, new module) -> their names."""

MOVED = {
    f"ssl_framework.{old}.{name}": f"ssl_framework.{new}.{name}"
    for (old, new), names in MODULES.items()
    for name in names.split()
}
"""Old address -> new address."""

FIRST = {new: old for old, new in MOVED.items()}


def as_now(node: Any) -> Any:
    """A nested config with every moved address replaced by that of today."""
    return replaced(node, MOVED)


def as_first_published(node: Any) -> Any:
    """A nested config with every address as it first was: what hashes of configs and protocols are made of."""
    return replaced(node, FIRST)


def replaced(node: Any, table: dict[str, str]) -> Any:
    """A copy of a nested config in which the values of ``_target_`` that the table knows are replaced."""
    if isinstance(node, dict):
        return {
            key: table.get(value, value) if key == "_target_" and isinstance(value, str) else replaced(value, table)
            for key, value in node.items()
        }
    return [replaced(value, table) for value in node] if isinstance(node, list) else node
