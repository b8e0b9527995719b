"""A run's result on a terminal."""

from typing import Any

from rich.console import Console

from ssl_framework.report.evaluations import evaluation_tables
from ssl_framework.report.tables import run_table

LONG = "zero_shot[background,classes=5,prompts=4]/top1"
RESULT = {
    "metrics": {"knn[k=20,T=0.1]/top1": 36.25, LONG: 83.75},
    "intervals": {LONG: [82.25, 85.5]},
    "baselines": {"untrained": {"knn[k=20,T=0.1]/top1": 13.3, LONG: 20.1}, "chance": {LONG: 20.0}},
    **{"method": "clip", "data": "captioned_shapes", "seed": 0, "device": "CPU", "wall_seconds": 62.0},
    **{"images_per_second": 418.0, "images": {"train": 8, "test": 8}},
}


def lines(width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(run_table(RESULT))
    return [line[2:] for line in shown.get().splitlines() if line.startswith("│")]


def test_a_long_name_is_divided_where_its_parts_meet() -> None:
    assert [line.split("│")[0].rstrip() for line in lines(80)] == [
        "knn[k=20,T=0.1]/top1",
        "zero_shot[background,",
        " classes=5,prompts=4]",
        " /top1",
    ]


def test_a_name_for_which_there_is_room_stays_whole() -> None:
    assert [line.split("│")[0].rstrip() for line in lines(120)] == ["knn[k=20,T=0.1]/top1", LONG]


def test_what_measured_nothing_leaves_no_line() -> None:
    def result(name: str, data: str, metrics: dict[str, float]) -> dict[str, Any]:
        about = {"protocol": {"name": name}, "data": data, "references": {}, "intervals": {}}
        return {"metrics": metrics, **about}

    def rows(*results: dict[str, Any]) -> list[int]:
        record = {"model": {"backbone": "tiny", "trained": True}, "device": "CPU", "results": results}
        return [table.row_count for table in evaluation_tables(record)]

    nothing, one = result("few_shot/1", "shapes", {}), result("frozen/1", "shapes", {"knn/top1": 50.0})
    assert rows(nothing) == [] and rows(one, nothing) == [1]
    assert rows(one, result("frozen/1", "digits", {})) == [1]
