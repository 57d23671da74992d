"""What was measured: kept, and written as text, Markdown, JSON and plots."""
import json
import os
import platform
import statistics
import subprocess
import sys

from . import plots, runs


def median(values):
    return statistics.median(values) if values else None


SEQUENTIAL = ("mmap", "load", "direct", "threads", "view")


class Results:
    def __init__(self, bench):
        self.bench = bench
        self.rates = {}      # medium -> {"rates": {(request, depth): MB/s}, "emulator_limit"}
        self.cells = {}      # (medium, kind, scenario, peer) -> [figures of a run]
        self.versions = {}
        self.gone = {}       # peer -> why
        self.wrong = []
        self.goals = []

    def missing(self, peer, why):
        self.gone[peer.name] = (why, peer.optional)
        print("%s: %s" % ("not there" if peer.optional else "MISSING", why), file=sys.stderr)

    def add_medium(self, medium, rates):
        self.rates[medium] = rates

    def add(self, medium, kind, scenario, peer, figures):
        self.cells.setdefault((medium, kind, scenario, peer), []).append(figures)
        if "missing" in figures:
            self.gone[scenario] = (figures["missing"], False)
        if "failed" in figures:
            self.wrong.append("%s %s %s %s: %s" % (medium, kind, scenario, peer, figures["failed"]))
        if "sum" in figures:
            same = [run["sum"] for (m, k, s, _), cell in self.cells.items() for run in cell
                    if (k, s) == (kind, scenario) and "sum" in run]
            if figures["sum"] != same[0]:
                self.wrong.append("%s %s %s %s: other bytes than elsewhere" %
                                  (medium, kind, scenario, peer))

    # ---- questions ----

    def medium_rate(self, medium):
        """The medium's own rate: the best that fio reached, MB/s."""
        return max(self.rates[medium]["rates"].values()) if medium in self.rates else None

    def values(self, medium, kind, scenario, peer, figure):
        cell = self.cells.get((medium, kind, scenario, peer), [])
        return [run[figure] for run in cell if run.get(figure) is not None]

    def median(self, medium, kind, scenario, peer, figure="rate"):
        return median(self.values(medium, kind, scenario, peer, figure))

    def spread(self, *cell, figure="rate"):
        """(largest - smallest) / median."""
        values = self.values(*cell, figure)
        return (max(values) - min(values)) / median(values) if values and median(values) else None

    def ratio(self, medium, kind, scenario, peer):
        for run in self.cells.get((medium, kind, scenario, peer), []):
            if "stored" in run:
                return run["original"] / run["stored"]
        return None

    def status(self):
        must = [name for name, (_, optional) in self.gone.items() if not optional]
        for line in self.wrong:
            print("readpath: %s" % line, file=sys.stderr)
        if must:
            print("MISSING: %s" % " ".join(sorted(must)), file=sys.stderr)
        return 1 if must or self.wrong else 0

    # ---- writing ----

    def write(self):
        options = self.bench.options
        text = "\n".join(tables(self, text_table)) + "\n"
        sys.stdout.write(text)
        if options.markdown:
            write_file(options.markdown, "\n".join(tables(self, markdown_table)) + "\n")
        if options.plots:
            plots.draw(self, options.plots)
        if options.json:
            write_file(options.json, json.dumps(as_json(self), indent=1) + "\n")


def write_file(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def no_figures(run):
    """Why a run has none."""
    if "failed" in run:
        return "FAILED"
    return run.get("refused") or "MISSING: " + run["missing"]


def progress(medium, kind, scenario, peer, number, figures):
    if "rate" not in figures:
        what = no_figures(figures)
    elif "p50_us" in figures:
        what = "p50 %.0f us, p99 %.0f us" % (figures["p50_us"], figures["p99_us"])
    elif scenario in runs.VARIANTS:
        what = "%.2f s, %.0f MB from the medium" % (figures["seconds"], figures["medium_mb"])
    elif "tokens_per_second" in figures:
        what = "%.1f tokens/s" % figures["tokens_per_second"]
    else:
        what = "%.0f MB/s, %.2f CPU s/GB" % (figures["rate"], figures["cpu_per_gb"])
    print("%s %s %s, run %d: %s: %s" % (medium, kind, scenario, number + 1, peer, what),
          file=sys.stderr, flush=True)


def number(value, digits=0):
    return "-" if value is None else "%.*f" % (digits, value)


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return "%s, %d cores, Linux %s" % (names[0] if names else platform.machine(), os.cpu_count(),
                                       platform.release())


def commit():
    done = subprocess.run(["git", "-C", os.path.dirname(__file__), "rev-parse", "--short", "HEAD"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def media_rows(results):
    head = ["medium", "best MB/s", "request", "depth", "emulator's own limit MB/s"]
    rows = []
    for medium, found in results.rates.items():
        (request, depth), rate = max(found["rates"].items(), key=lambda item: item[1])
        rows.append([medium, number(rate), request, str(depth), number(found["emulator_limit"])])
    return head, rows


def columns(scenario):
    """(head, figure of a run, digits) that a scenario has besides its rate."""
    if scenario in ("random", "frames"):
        return [("p50 us", "p50_us", 0), ("p99 us", "p99_us", 0)]
    if scenario == "small-ram":
        return [("s/pass", "pass_seconds", 2), ("MB/pass", "pass_mb", 0),
                ("/ (stored - cache)", "pass_share", 2)]
    if scenario == "warm":
        return [("READs", "warm_reads", 0)]
    if scenario in runs.VARIANTS:
        return [("seconds", "seconds", 2), ("MB from medium", "medium_mb", 0)]
    if scenario == "tokens":
        return [("tokens/s", "tokens_per_second", 1)]
    return []


def cell_row(results, medium, kind, scenario, peer):
    cell = (medium, kind, scenario, peer)
    refused = next((no_figures(run) for run in results.cells[cell] if "rate" not in run), None)
    if refused:
        return [peer, refused] + ["-"] * (len(head_row(scenario)) - 2)
    ratio, rate, own = results.ratio(*cell), results.median(*cell), results.medium_rate(medium)
    spread, peak = results.spread(*cell), results.median(*cell, "peak_memory")
    row = [peer, number(rate), number(100 * spread) + " %", number(ratio, 3)]
    if scenario in SEQUENTIAL:
        row += [number(rate / own, 2), number(rate / (ratio * own), 2)]
        row.append(number(results.median(*cell, "decode_per_gb"), 2))
    row += [number(results.median(*cell, "cpu_per_gb"), 2),
            number(results.median(*cell, "machine_cpu_per_gb"), 2),
            number(results.median(*cell, "cores_busy"), 1)]
    row += [number(results.median(*cell, figure), digits)
            for _, figure, digits in columns(scenario)]
    others = results.median(*cell, "others")
    return row + [number(peak / (1 << 20) if peak else None),
                  "-" if others is None else number(100 * others) + " %"]


def head_row(scenario):
    row = ["peer", "MB/s", "spread", "ratio r"]
    if scenario in SEQUENTIAL:
        row += ["/ medium", "/ (r x medium)", "decode s/GB"]
    return (row + ["CPU s/GB", "machine s/GB", "cores busy"] +
            [head for head, _, _ in columns(scenario)] + ["daemon peak MiB", "others' CPU"])


def tables(results, form):
    """Lines of all tables, each formed by `form(head, rows)`."""
    yield from form(*media_rows(results))
    groups = []
    for medium, kind, scenario, _ in results.cells:
        if (medium, kind, scenario) not in groups:
            groups.append((medium, kind, scenario))
    for group in groups:
        yield ""
        yield "%s, %s, %s" % (group[0], group[1], runs.SCENARIOS[group[2]])
        yield ""
        yield from form(head_row(group[2]), [cell_row(results, *cell) for cell in results.cells
                               if cell[:3] == group])
    for name, (why, optional) in results.gone.items():
        yield ""
        yield "%s: %s: %s" % (name, "not there" if optional else "MISSING", why)
    if results.goals:
        yield ""
        yield from form(["goal", "wanted", "found", "", "fuse-only"],
                        [[g.name, g.wanted, g.found, g.verdict, g.fuse] for g in results.goals])
    yield ""
    options = results.bench.options
    yield ("Medians of %d runs, each cold, peers interleaved; spread is (largest - smallest) / "
           "median; cores busy counts the emulated medium too; others' CPU is what programs "
           "outside of the run took of the processors. "
           "MB/s are 10^6 bytes of the model (%s). Machine: %s. Commit %s." %
           (options.runs, options.size, machine(), commit()))


def text_table(head, rows):
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    for row in [head] + rows:
        yield "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip()


def markdown_table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def as_json(results):
    options = results.bench.options
    return {
        "machine": machine(), "commit": commit(), "size": options.size, "runs": options.runs,
        "versions": results.versions,
        "missing": {name: why for name, (why, _) in results.gone.items()},
        "media": [{"medium": medium, "request": request, "depth": depth, "mbps": rate,
                   "emulator_limit": found["emulator_limit"]}
                  for medium, found in results.rates.items()
                  for (request, depth), rate in found["rates"].items()],
        "cells": [{"medium": m, "model": k, "scenario": s, "peer": p, "runs": cell}
                  for (m, k, s, p), cell in results.cells.items()],
        "goals": [g._asdict() for g in results.goals],
    }
