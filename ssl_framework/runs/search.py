"""A search of hyper-parameters, ``hparams_search=...``: what may not be asked of it."""

from omegaconf import DictConfig, OmegaConf


def refuse_test_labels(cfg: DictConfig) -> None:
    """Refuses a search that would choose by the test split.

    Raises:
        ValueError: ``hparams_search.metric`` may come from a probe of it.
    """
    metric = OmegaConf.select(cfg, "hparams_search.metric")
    probes = [*(cfg.evaluation.get("probes") or {}), *(cfg.evaluation.get("head_probes") or {})]
    if metric is not None and probes and not metric.endswith("/train_top1"):
        raise ValueError(
            f"hparams_search.metric is {metric}, but {', '.join(map(str, probes))} of evaluation.probes read the test "
            "split, by which nothing may be chosen: set evaluation=search"
        )
