"""Imports what a run imports, and runs nothing: a process forked from one that has imported this becomes the command at
once. A file of configs that has not changed is parsed once, which a new interpreter would do in each start, and Hydra
has found its plugins and its grammar."""

import importlib
import pkgutil

import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
from hydra import compose, initialize_config_dir

import ssl_framework
from ssl_framework.runs.groups import CONFIGS
from tools.parse_once import parse_once

LEFT_OUT = ("ssl_framework.commands", "ssl_framework.study", "ssl_framework.data", "ssl_framework.configs")
"""Not of a run, or imported only where data need what may not be installed."""

for module in pkgutil.walk_packages(ssl_framework.__path__, "ssl_framework."):
    if not module.name.startswith(LEFT_OUT):
        importlib.import_module(module.name)

parse_once()

with initialize_config_dir(str(CONFIGS), version_base="1.3"):
    compose("train", overrides=["seed=0"])
