"""Scores a run again: ``python scripts/evaluate.py run=outputs/latest [evaluation.probes.knn.k=200 ...]``."""

from ssl_framework.commands.entry import evaluate

if __name__ == "__main__":
    evaluate()
