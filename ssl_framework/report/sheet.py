"""The one model of a table of runs, whoever prints it: rows by columns of entries, and what belongs to their numbers:
seeds, spread, published values, significance, cost, protocol."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_framework.runs.folder import Summary
from ssl_framework.runs.numbers import in_percent, shown, with_spread

TRUST = {
    "paper": "read in the paper",
    "readme": "read in the authors' README or code",
    "re-implementation": "read in a re-implementation by others",
    "memory": "from memory, unchecked: no target",
}
"""How far a published number can be relied on."""


class Published(NamedTuple):
    """Numbers of others beside ours."""

    what: str  # metric, data set, network, epochs
    source: str
    trust: str  # a key of TRUST
    values: dict[str, dict[str, float]]  # row -> column -> value


class Effect(NamedTuple):
    """A claim about the table and what would show it, written down before the runs."""

    claim: str
    plus: tuple[tuple[str, str], ...]  # places (row, column) whose values are added
    minus: tuple[tuple[str, str], ...]  # places whose values are taken away
    by: float  # the least difference that counts, in the metric's unit
    metric: str


LEVEL = 0.05
"""Of the tests against the baseline, over all cells of a table together, and of those of all its effects together."""


EQUAL = 1e-9
"""Relative: differences of numbers with few digits that vary by less are equal but for rounding."""


class Entry(NamedTuple):
    """One run in one place of the table."""

    row: str
    column: str
    seed: int
    state: str  # as ``RunFolder.state``
    values: dict[str, float]  # what the sheet calls a metric -> value
    seconds: float | None = None  # of the run; None where it did not go in one piece
    reached: float | None = None  # seconds until the target was reached
    protocol: str = ""  # name and fingerprint of what the values were measured with
    config_hash: str = ""
    error: str = ""
    steps: int | None = None  # of the optimizer
    images_per_second: float | None = None


def entry_of(run: Summary, row: str, column: str, values: dict[str, float], reached: float | None = None) -> Entry:
    """A run in its place; ``values`` are those of its metrics that the table shows, under the table's names."""
    return Entry(
        row,
        column,
        run.seed,
        run.state,
        values,
        run.seconds,
        reached,
        run.protocol,
        run.config_hash,
        run.error,
        run.steps,
        run.images_per_second,
    )


class Sheet(NamedTuple):
    """Rows by columns of entries."""

    title: str
    axis: str  # what the columns vary
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]  # the first is tested against the baseline
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    baseline: str | None = None
    published: Published | None = None
    target: float | None = None  # of the first metric, for the cost to reach it
    effects: tuple[Effect, ...] = ()


class Cell(NamedTuple):
    """The runs of one place that differ in the seed only."""

    by_seed: dict[int, dict[str, float]]  # of finished runs
    failed: int
    unfinished: int
    missing: int
    configs: int  # different configs among the finished runs: more than one must not be averaged
    seconds: tuple[float, ...]
    reached: tuple[float, ...]

    def values(self, metric: str) -> list[float]:
        """Of the finished runs, in the order of seeds; none where configs differ."""
        if self.configs > 1:
            return []
        return [found[metric] for _, found in sorted(self.by_seed.items()) if metric in found]

    @property
    def lacks(self) -> str:
        """``1 failed, 1 missing``, or nothing."""
        counts = {"failed": self.failed, "unfinished": self.unfinished, "missing": self.missing}
        found = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join(found + ([f"{self.configs} different configs"] if self.configs > 1 else []))


class Against(NamedTuple):
    """A cell beside the baseline's of its column, over the seeds that both have."""

    difference: float
    spread: float  # standard deviation of the differences; NaN for one seed
    n: int
    p: float  # two-sided paired t-test, corrected after Holm over the table; NaN where there is none

    @property
    def significant(self) -> bool:
        """At ``LEVEL``."""
        return self.p < LEVEL


def cells(sheet: Sheet) -> dict[tuple[str, str], Cell]:
    """What became of every place of the table.

    Raises:
        ValueError: the values of a column were measured with different protocols.
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    protocols: dict[str, dict[str, Entry]] = {}
    for entry in sheet.entries:
        found.setdefault((entry.row, entry.column), []).append(entry)
        if entry.protocol:
            protocols.setdefault(entry.column, {}).setdefault(entry.protocol, entry)
    for column, several in protocols.items():
        if len(several) > 1:
            one, other = list(several.values())[:2]
            raise ValueError(
                f"the column {column} mixes protocols: {one.row} was measured with {one.protocol}, {other.row} with "
                f"{other.protocol}; evaluate both with the same one (scripts/evaluate.py) or report them apart"
            )
    return {
        (row, column): cell(found.get((row, column), []), sheet.seeds) for row in sheet.rows for column in sheet.columns
    }


def cell(entries: Sequence[Entry], seeds: Iterable[int]) -> Cell:
    """The runs of one place; ``seeds`` are those it should have."""
    done = [entry for entry in entries if entry.state == "done"]
    states = [entry.state for entry in entries]
    return Cell(
        {entry.seed: entry.values for entry in done},
        states.count("failed"),
        states.count("interrupted") + states.count("running"),
        states.count("missing") + len(set(seeds) - {entry.seed for entry in entries}),
        len({entry.config_hash for entry in done}),
        tuple(entry.seconds for entry in done if entry.seconds is not None),
        tuple(entry.reached for entry in done if entry.reached is not None),
    )


def against_baseline(sheet: Sheet, found: Mapping[tuple[str, str], Cell]) -> dict[tuple[str, str], Against]:
    """Every cell of the first metric against the baseline's in its column.

    The test is a paired t-test over seeds: runs of one seed share data order and initial weights, so their difference
    varies less than either. Holm's correction (Scandinavian Journal of Statistics 1979) bounds the chance of a single
    false finding in the whole table by ``LEVEL``. With three seeds only large effects can be found.
    """
    if sheet.baseline is None:
        return {}
    metric, by_place = sheet.metrics[0], {}
    for row in sheet.rows:
        for column in sheet.columns if row != sheet.baseline else ():
            here, there = found[row, column], found[sheet.baseline, column]
            if here.configs > 1 or there.configs > 1:
                continue
            both = sorted(here.by_seed.keys() & there.by_seed.keys())
            pairs = [(here.by_seed[seed].get(metric), there.by_seed[seed].get(metric)) for seed in both]
            differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
            if differences:
                by_place[row, column] = differences
    corrected = holm(dict(zip(by_place, paired_p(list(by_place.values())), strict=True)))
    return {
        place: Against(mean_of(d), deviation(d) if len(d) > 1 else math.nan, len(d), corrected[place])
        for place, d in by_place.items()
    }


class Verdict(NamedTuple):
    """What the runs say of an effect, over the seeds that all its places have."""

    effect: Effect
    difference: float  # NaN where no seed has all places
    spread: float  # standard deviation over seeds; NaN below two
    n: int
    p: float  # two-sided paired t-test, corrected after Holm over the effects of the table; NaN where there is none

    @property
    def word(self) -> str:
        """``seen`` or ``opposite`` where the difference is at least ``by`` in either direction and significant at
        ``LEVEL``, else ``not seen``; ``open`` where no test can be made yet."""
        if math.isnan(self.p):
            return "open"
        large = abs(self.difference) >= self.effect.by and self.p < LEVEL
        return "not seen" if not large else "seen" if self.difference > 0 else "opposite"


def verdicts(sheet: Sheet, found: Mapping[tuple[str, str], Cell]) -> list[Verdict]:
    """Every effect of the table, judged by a paired t-test over seeds as ``against_baseline`` has it."""
    several = [differences_of(effect, found) for effect in sheet.effects]
    corrected = holm(dict(enumerate(paired_p(several))))
    return [
        Verdict(
            effect,
            mean_of(values) if values else math.nan,
            deviation(values) if len(values) > 1 else math.nan,
            len(values),
            corrected[number],
        )
        for number, (effect, values) in enumerate(zip(sheet.effects, several, strict=True))
    ]


def differences_of(effect: Effect, found: Mapping[tuple[str, str], Cell]) -> list[float]:
    """One value a seed: what is added less what is taken away; none where a place mixes configs."""
    places = [*effect.plus, *effect.minus]
    if any(found[place].configs > 1 for place in places):
        return []
    seeds = set.intersection(*(set(found[place].by_seed) for place in places))
    values = {place: found[place].by_seed for place in places}
    return [
        math.fsum(values[place][seed][effect.metric] for place in effect.plus)
        - math.fsum(values[place][seed][effect.metric] for place in effect.minus)
        for seed in sorted(seeds)
        if all(effect.metric in values[place][seed] for place in places)
    ]


def paired_p(several: Sequence[Sequence[float]]) -> list[float]:
    """Two-sided p-values of paired t-tests of no mean difference, one for the differences of each pair of cells.

    NaN for fewer than two differences, and for equal ones, whose spread is known to be none but by chance. All of one
    length are tested in one call: a table of thousands of cells would wait for seconds otherwise.
    """
    from scipy.stats import ttest_1samp  # slow to import

    found = [math.nan] * len(several)
    places: dict[int, list[int]] = {}
    for place, differences in enumerate(several):
        if len(differences) > 1 and deviation(differences) > EQUAL * abs(mean_of(differences)):
            places.setdefault(len(differences), []).append(place)
    for alike in places.values():
        values = ttest_1samp([several[place] for place in alike], 0.0, axis=1).pvalue  # [cells of that many seeds]
        for place, value in zip(alike, values, strict=True):
            found[place] = float(value)
    return found


def mean_of(values: Sequence[float]) -> float:
    """The mean of an exact sum, in a tenth of the time of ``statistics.mean``, which counts in fractions."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values, with n - 1."""
    mean = mean_of(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def holm(p: Mapping[Any, float]) -> dict[Any, float]:
    """Holm's step-down correction of several p-values; NaN stay NaN and do not count."""
    defined = sorted((value, place) for place, value in p.items() if not math.isnan(value))
    corrected, largest = dict(p), 0.0
    for rank, (value, place) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * value))
        corrected[place] = largest
    return corrected


def best(sheet: Sheet, found: Mapping[tuple[str, str], Cell], metric: str) -> set[tuple[str, str]]:
    """The place of the largest mean in every column, where a metric is better the larger it is (a top-1 accuracy)."""
    if not is_accuracy(metric):
        return set()
    places = set()
    for column in sheet.columns:
        means = {row: mean_of(v) for row in sheet.rows if (v := found[row, column].values(metric))}
        means = {row: mean for row, mean in means.items() if not math.isnan(mean)}
        if len(means) > 1:
            highest = max(means.values())
            places |= {(row, column) for row, mean in means.items() if mean == highest}
    return places


def is_accuracy(metric: str) -> bool:
    """Whether a metric, by its name in result.json or in a study, is a percentage of right answers."""
    return in_percent(metric) or (("top-1" in metric or "accuracy" in metric) and "error" not in metric)


def written(value: float, metric: str) -> str:
    """Percent with one decimal, all else with three digits."""
    return shown("/top1" if is_accuracy(metric) else metric, value)


def mean_and_spread(values: Sequence[float], metric: str) -> str:
    """``52.1 ± 0.4``; a single value stands alone, a dash for none."""
    if not values:
        return "-"
    mean = mean_of(values)
    if len(values) == 1:
        return written(mean, metric)
    return with_spread(mean, deviation(values), "/top1" if is_accuracy(metric) else metric)


def protocols(sheet: Sheet) -> list[str]:
    """What the numbers were measured with, of all columns; "" stands for runs that do not say."""
    return sorted({entry.protocol for entry in sheet.entries if entry.state == "done"})
