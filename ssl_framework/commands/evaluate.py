"""Evaluation of a run folder or of a backbone from elsewhere, by any protocol, on any data set.

python scripts/evaluate.py run=outputs/latest                                  the same numbers again
python scripts/evaluate.py run=outputs/latest evaluation=retrieval,clustering  other protocols
python scripts/evaluate.py run=outputs/latest evaluation=all                   all that fit
python scripts/evaluate.py run=outputs/latest data=digits,cifar10              other data sets
python scripts/evaluate.py backbone=timm:resnet18 data=digits                  a timm model, pretrained=true or random
python scripts/evaluate.py backbone=net.safetensors data=digits                a file that scripts/export.py wrote
python scripts/evaluate.py backbone=net.safetensors model=resnet18 data=digits another one, of that timm model
python scripts/evaluate.py backbone=clip.pt model=open_clip:ViT-B-32 data=emoji evaluation=cross_modal  a public CLIP
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ssl_framework.evaluation.request import evaluate_request, place_of, request_of
from ssl_framework.evaluation.score_all import noted
from ssl_framework.report.evaluations import csv_of, evaluation_tables
from ssl_framework.runs.folder import write, write_json
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import as_typed, commanded, quiet, refusing


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """The command; see this module's docstring."""
    arguments = sys.argv[1:] if arguments is None else arguments
    others = admit(arguments)
    if {"-h", "--help"} & set(others):
        print(as_typed(str(__doc__)))
        return
    quiet()
    with refusing():
        request = request_of(others)
        path = place_of(request)
        with noted() as notes:
            record = evaluate_request(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        write(path.with_suffix(".csv"), csv_of(record))
    say(record, notes)
    print(path)


def say(record: Mapping[str, Any], notes: Sequence[str]) -> None:
    """The tables, and in one line each what was left out and why."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in evaluation_tables(record):
        console.print(table)
    said = [*notes, *(note for result in record.get("results", [record]) for note in result["notes"])]
    for note in dict.fromkeys(said):
        print(f"note: {note}", file=sys.stderr)
    for data, why in record["left_out"].items():
        for name, reason in why.items():
            console.print(f"left out on {data}: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
