"""A sheet as markdown, CSV, LaTeX and a page of its own. No number stands without n and its protocol."""

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from ssl_framework.report.escaping import csv_cells, markdown_cell, markdown_text, tick_texts, write_literally
from ssl_framework.report.html import embedded, rendered
from ssl_framework.report.sheet import (
    LEVEL,
    TRUST,
    Against,
    Cell,
    Effect,
    Sheet,
    against_baseline,
    best,
    cells,
    deviation,
    is_accuracy,
    mean_and_spread,
    mean_of,
    protocols,
    verdicts,
    written,
)
from ssl_framework.runs.plain import printable

Found = Mapping[tuple[str, str], Cell]


def text_of(cell: Cell, metric: str, summed_up: Callable[[list[float], str], str] = mean_and_spread) -> str:
    """``52.1 ± 0.4 (3)`` with the number of seeds, and what the cell lacks."""
    values = cell.values(metric)
    if not values:
        return cell.lacks or "-"
    lacks = [cell.lacks, f"{without} without it" if (without := len(cell.by_seed) - len(values)) else ""]
    return f"{summed_up(values, metric)} ({', '.join(filter(None, [str(len(values)), *lacks]))})"


def tables(sheet: Sheet) -> list[tuple[str, list[list[str]]]]:
    """Every table of the sheet: title, and its lines of cells, the head first. Bold is marked by ``**``."""
    found = cells(sheet)
    result = []
    for metric in sheet.metrics:
        marked, against = best(sheet, found, metric), {}
        if metric == sheet.metrics[0]:
            against = against_baseline(sheet, found)
        body = [[head_of(sheet), *sheet.columns]]
        for row in sheet.rows:
            line = [row]
            for column in sheet.columns:
                text = text_of(found[row, column], metric)
                if (row, column) in marked:
                    text = f"**{text}**"
                line.append(text + (" *" if (row, column) in against and against[row, column].significant else ""))
            body.append(line)
            if metric == sheet.metrics[0] and sheet.published and row in sheet.published.values:
                theirs = sheet.published.values[row]
                body.append([f"{row}, published", *(f"{theirs[c]:g}" if c in theirs else "-" for c in sheet.columns)])
        result.append((metric, body))
        if against:
            result.append((f"{metric}, difference to {sheet.baseline}", differences(sheet, against)))
    if sheet.effects:
        result.append(("Effects", effects(sheet, found)))
    result.append(("Cost", costs(sheet, found)))
    return result


def head_of(sheet: Sheet) -> str:
    """What stands above the rows."""
    return f"{sheet.axis} →" if sheet.axis else ""


def differences(sheet: Sheet, against: Mapping[tuple[str, str], Against]) -> list[list[str]]:
    """Ours with its spread and p-value, and the published one below."""
    metric, body = sheet.metrics[0], [[head_of(sheet), *sheet.columns]]
    theirs = sheet.published.values if sheet.published else {}
    for row in sheet.rows:
        if row == sheet.baseline:
            continue
        line = [row]
        for column in sheet.columns:
            if (value := against.get((row, column))) is None:
                line.append("-")
                continue
            spread = "" if math.isnan(value.spread) else f" ± {written(value.spread, metric)}"
            p = "" if math.isnan(value.p) else f", p {value.p:.2g}"
            line.append(f"{signed(value.difference, metric)}{spread} (n {value.n}{p})")
        body.append(line)
        base = theirs.get(sheet.baseline or "", {})
        if row in theirs and base:
            body.append(
                [f"{row}, published"]
                + [
                    signed(theirs[row][column] - base[column], metric)
                    if column in theirs[row] and column in base
                    else "-"
                    for column in sheet.columns
                ]
            )
    return body


def effects(sheet: Sheet, found: Found) -> list[list[str]]:
    """Each claim with the criterion that was written down for it, what came out, and whether it was seen."""
    body = [["claim", "criterion", "measured", "verdict"]]
    for verdict in verdicts(sheet, found):
        metric, measured = verdict.effect.metric, "-"
        if verdict.n:
            spread = "" if math.isnan(verdict.spread) else f" ± {written(verdict.spread, metric)}"
            p = "" if math.isnan(verdict.p) else f", p {verdict.p:.2g}"
            measured = f"{signed(verdict.difference, metric)}{spread} (n {verdict.n}{p})"
        body.append([verdict.effect.claim, criterion(verdict.effect), measured, verdict.word])
    return body


def criterion(effect: Effect) -> str:
    """``top-1: (DCL, 32) - (NT-Xent, 32) at least 1.0``."""
    plus, minus = (" + ".join(f"({row}, {column})" for row, column in side) for side in (effect.plus, effect.minus))
    minus = f"({minus})" if len(effect.minus) > 1 else minus
    return f"{effect.metric}: {plus} - {minus} at least {written(effect.by, effect.metric)}"


def signed(value: float, metric: str) -> str:
    """``+1.2`` or ``-0.0``: a difference as the metric is printed."""
    return written(value, metric) if value < 0 else f"+{written(value, metric)}"


def costs(sheet: Sheet, found: Found) -> list[list[str]]:
    """Hours of the finished runs of a row, and the median seconds of a run; to the target where there is one. Runs that
    were interrupted do not know their time: the hours say of how many they are."""
    head = ["", "runs", "hours in all", "median seconds a run"]
    if sheet.target is not None:
        head.append(f"median seconds to {sheet.metrics[0]} {sheet.target:g} (reached by)")
    body = [head]
    for row in sheet.rows:
        own = [found[row, column] for column in sheet.columns]
        seconds = [value for cell in own for value in cell.seconds]
        runs = sum(len(cell.by_seed) for cell in own)
        line = [row, str(runs)]
        known = f" ({len(seconds)} of {runs})" if len(seconds) < runs else ""
        hours = f"{sum(seconds) / 3600:.2f}{known}"
        line += [hours, f"{statistics.median(seconds):.0f}"] if seconds else ["-", "-"]
        if sheet.target is not None:
            reached = [value for cell in own for value in cell.reached]
            line.append(
                f"{statistics.median(reached):.0f} ({len(reached)} of {runs})" if reached else f"- (0 of {runs})"
            )
        body.append(line)
    return body


def notes(sheet: Sheet) -> list[str]:
    """What the marks mean and where the published numbers come from."""
    bold = " Bold: the largest mean of a column." if any(map(is_accuracy, sheet.metrics)) else ""
    lines = [f"Mean ± standard deviation over seeds (number of seeds).{bold}"]
    if sheet.baseline:
        lines.append(
            f"\\*: differs from {sheet.baseline} at the {100 * LEVEL:g} % level (paired t-test over seeds; p is "
            "corrected after Holm over the table)."
        )
    if sheet.effects:
        lines.append(
            "Effects: the criterion was written before the runs. Seen: at least as large as it says and different from "
            f"0 at the {100 * LEVEL:g} % level (paired t-test over seeds, corrected after Holm over the effects); "
            "opposite: likewise with the other sign."
        )
    if measured := protocols(sheet):
        lines.append(f"Protocol: {', '.join(name or 'not said (an earlier version)' for name in measured)}.")
    if sheet.published:
        p = sheet.published
        lines.append(f"Published: {p.what}; {p.source} ({TRUST[p.trust]}).")
    return lines


def markdown(sheet: Sheet) -> str:
    """All tables, one below the other."""
    parts = []
    for title, body in tables(sheet):
        head, *rest = [[markdown_cell(cell) for cell in line] for line in body]
        lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest)]
        parts.append(f"**{markdown_text(title)}**\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, *map(markdown_text, notes(sheet))]) + "\n"


def as_csv(sheet: Sheet) -> str:
    """One line a cell and metric, with everything the other forms show."""
    found, out = cells(sheet), io.StringIO()
    against = against_baseline(sheet, found)
    writer = csv.writer(out, lineterminator="\n")
    names = ("row", "column", "metric", "n", "mean", "std", "failed", "unfinished", "missing", "published")
    writer.writerow([*names, "difference", "difference_std", "p_holm", "seconds"])
    for metric in sheet.metrics:
        first = metric == sheet.metrics[0]
        for row in sheet.rows:
            for column in sheet.columns:
                cell, values = found[row, column], found[row, column].values(metric)
                theirs = sheet.published.values.get(row, {}).get(column, "") if first and sheet.published else ""
                value = against.get((row, column)) if first else None
                writer.writerow(
                    [*csv_cells([row, column, metric]), len(values)]
                    + [round(mean_of(values), 4) if values else ""]
                    + [round(deviation(values), 4) if len(values) > 1 else ""]
                    + [cell.failed, cell.unfinished, cell.missing, theirs]
                    + (
                        ["", "", ""]
                        if value is None
                        else [plain(value.difference), plain(value.spread), plain(value.p)]
                    )
                    + [round(statistics.median(cell.seconds), 1) if cell.seconds else ""]
                )
    return out.getvalue()


def plain(value: float) -> float | str:
    """Rounded, nothing for NaN."""
    return "" if math.isnan(value) else float(f"{value:.4g}")


def latex(sheet: Sheet) -> str:
    """The tables for a paper (booktabs), published rows in italics."""
    parts = []
    for title, body in tables(sheet):
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(body[0]) - 1)}}}", r"\toprule"]
        for number, line in enumerate(body):
            texts = [bold(cell) for cell in line]
            if line[0].endswith(", published"):
                texts = [rf"\textit{{{text}}}" for text in texts]
            lines.append(" & ".join(texts) + r" \\")
            lines += [r"\midrule"] if number == 0 else []
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    said = "\n".join(f"% {' '.join(printable(line).split())}" for line in notes(sheet))
    return "\n\n".join([*parts, said]) + "\n"


def bold(cell: str) -> str:
    """A cell with its mark of bold as LaTeX."""
    head, marked, rest = cell.partition("**")
    if not marked:
        return escaped(cell)
    inner, _, tail = rest.partition("**")
    return rf"{escaped(head)}\textbf{{{escaped(inner)}}}{escaped(tail)}"


LATEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "[": "{[}",  # at the start of a line it would belong to the end of the one before
    "±": r"$\pm$", "→": r"$\rightarrow$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "∞": r"$\infty$",
    **{letter: rf"$\{name}$" for letter, name in zip("αβγδελμνρστω", (
        *("alpha", "beta", "gamma", "delta", "epsilon", "lambda"), *("mu", "nu", "rho", "sigma", "tau", "omega"),
    ), strict=True)},
}  # fmt: skip
"""What LaTeX writes otherwise."""


def escaped(text: str) -> str:
    """Text as LaTeX takes it."""
    return re.sub(r"\s*\n\s*", " ", printable(text)).translate(str.maketrans(LATEX))


def page(sheet: Sheet, lead: list[str], curves: bytes | None = None) -> str:
    """One file with the tables and static plots, and with ``curves`` over steps if there is an SVG of them; needs no
    network and no script."""
    drawn = {metric: picture for metric in sheet.metrics if (picture := plot(sheet, metric)) is not None}
    pictures = {metric: embedded(picture) for metric, picture in drawn.items()}
    lines = "" if curves is None else embedded(curves, "svg+xml")
    own = {"pictures": pictures, "curves": lines, "tables": tables(sheet), "notes": notes(sheet)}
    return rendered("sheet.html", sheet=sheet, lead=lead, **own)


def plot(sheet: Sheet, metric: str) -> bytes | None:
    """A PNG of one metric: lines with bands of one standard deviation over a swept number, a heat map where rows are
    numbers too, else one group of points a column (of a single column: one line a row); None where there is nothing to
    draw, or too much."""
    found = cells(sheet)
    means = {place: mean_of(v) for place, cell in found.items() if (v := cell.values(metric))}
    means = {place: mean for place, mean in means.items() if math.isfinite(mean)}
    rows, columns = len(sheet.rows), len(sheet.columns)
    if len(means) < 2 or rows * columns > 400 or (columns == 1 and rows > 60):
        return None
    from matplotlib.figure import Figure  # slow to import

    spreads = {place: deviation(v) if len(v := found[place].values(metric)) > 1 else 0.0 for place in means}
    x, y = numbers(sheet.columns), numbers(sheet.rows)
    if columns > 1 and rows > 1 and x is not None and y is not None:
        figure = Figure(figsize=(1.2 + 0.9 * columns, 1.2 + 0.5 * rows))
        axes = figure.subplots()
        grid = [[means.get((row, column), math.nan) for column in sheet.columns] for row in sheet.rows]
        drawn = axes.imshow(grid, cmap="viridis", aspect="auto")
        axes.set_xticks(range(columns), tick_texts(sheet.columns))
        axes.set_yticks(range(rows), tick_texts(sheet.rows))
        figure.colorbar(drawn, label=metric)
    elif columns == 1:
        figure = Figure(figsize=(7, 0.8 + 0.28 * rows))
        axes = figure.subplots()
        for number, row in enumerate(sheet.rows):
            if (place := (row, sheet.columns[0])) in means:
                axes.errorbar(means[place], number, xerr=spreads[place], fmt="o", color="C0", capsize=3)
        axes.set_yticks(range(rows), tick_texts(sheet.rows))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    else:
        figure = Figure(figsize=(7, 3.6))
        axes = figure.subplots()
        for number, row in enumerate(sheet.rows):
            places = [(i, column) for i, column in enumerate(sheet.columns) if (row, column) in means]
            at = [x[i] if x is not None else i for i, _ in places]
            mean = [means[row, column] for _, column in places]
            spread = [spreads[row, column] for _, column in places]
            style: dict[str, Any] = {"color": f"C{number % 10}", "marker": "os^Dv<>*Ph"[number % 10], "label": row}
            if x is None:
                shift = 0.6 * (number / max(1, rows - 1) - 0.5)
                axes.errorbar([i + shift for i in at], mean, spread, linestyle="none", capsize=3, **style)
            else:
                axes.plot(at, mean, **style)
                low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if x is None:
            axes.set_xticks(range(columns), tick_texts(sheet.columns))
        else:
            if min(x) > 0 and max(x) / min(x) >= 8:
                axes.set_xscale("log")
            axes.set_xticks(x, tick_texts(sheet.columns))
            axes.minorticks_off()
        axes.set_ylabel(metric)
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(metric if columns == 1 else sheet.axis)
    write_literally(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()


def numbers(names: tuple[str, ...]) -> list[float] | None:
    """The names as finite numbers, None unless all are."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
