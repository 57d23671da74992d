"""SVG plots of a run, by gnuplot."""
import os
import subprocess
import sys

from . import runs

COLOURS = {"plain": "#999999", "plain+cat": "#666666", "erofs-64k": "#9ecae1",
           "erofs-1m": "#4292c6", "squashfs": "#fdae6b", "btrfs": "#bcbddc", "dwarfs": "#c7a76c",
           "modelfs": "#238b45", "modelfs-sd": "#74c476", "modelfs-64k": "#a1d99b"}


def gnuplot(path, lines):
    script = ["set terminal svg size 1100,520 background 'white'", "set output '%s'" % path,
              "set key outside", "set grid ytics lc '#dddddd'"] + lines
    try:
        done = subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True,
                              capture_output=True, check=False)
    except FileNotFoundError:
        print("readpath: no gnuplot: no plots", file=sys.stderr)
        return
    if done.returncode:
        print("readpath: gnuplot: %s" % done.stderr.strip(), file=sys.stderr)


def block(name, head, rows):
    """Inline data of gnuplot; None becomes a gap."""
    yield "$%s << EOD" % name
    for row in [head] + rows:
        yield " ".join('"%s"' % cell if isinstance(cell, str) else "?" if cell is None
                       else "%g" % cell for cell in row)
    yield "EOD"


def bars(results, kind, scenario, figure):
    """(media, peers, rows) of what was measured."""
    cells = [cell for cell in results.cells if cell[1:3] == (kind, scenario)]
    media = [medium for medium in results.rates if any(cell[0] == medium for cell in cells)]
    peers = [peer for peer in COLOURS if any(cell[3] == peer for cell in cells)]
    rows = [[medium] + [results.median(medium, kind, scenario, peer, figure) for peer in peers] +
            [results.medium_rate(medium), line(results, medium, kind, scenario)]
            for medium in media]
    return media, peers, rows


def line(results, medium, kind, scenario):
    """Ratio x medium: as fast as stored bytes can come."""
    ratio = results.ratio(medium, kind, scenario, "modelfs")
    return ratio * results.medium_rate(medium) if ratio else None


def bar_plot(results, kind, scenario, figure, label, directory, limits):
    media, peers, rows = bars(results, kind, scenario, figure)
    if not media or not peers:
        return
    script = list(block("bars", ["medium"] + peers + ["medium", "line"], rows))
    script += ["set title '%s: %s'" % (kind, runs.SCENARIOS[scenario].replace("'", "")),
               "set ylabel '%s'" % label, "set logscale y", "set style fill solid",
               "set style data histogram", "set style histogram clustered gap 1",
               "set datafile missing '?'", "set boxwidth 0.95"]
    parts = ["$bars using %d:xtic(1) title '%s' noenhanced lc rgb '%s'" % (i + 2, peer, COLOURS[peer])
             for i, peer in enumerate(peers)]
    if limits:
        first = len(peers) + 2
        parts += ["$bars using 0:%d:(0.45) with xerrorbars pt 0 lw 2 lc '%s' title '%s'" %
                  (first + i, colour, title)
                  for i, (colour, title) in enumerate((("black", "medium, by fio"),
                                                       ("#d62728", "ratio x medium")))]
    script.append("plot " + ", ".join(parts))
    gnuplot(os.path.join(directory, "%s-%s.svg" % (scenario, kind)), script)


def frame_plot(results, kind, directory):
    media = [medium for medium in results.rates
             if any(cell[:3] == (medium, kind, "frames") for cell in results.cells)]
    script, parts = [], []
    for i, medium in enumerate(media):
        rows = [[peer.rsplit("-", 1)[1], results.median(medium, kind, "frames", peer, "p50_us"),
                 results.ratio(medium, kind, "frames", peer)]
                for m, k, s, peer in results.cells if (m, k, s) == (medium, kind, "frames")]
        script += block("f%d" % i, ["frame", "p50", "ratio"], rows)
        parts.append("$f%d using 0:2:xtic(1) every ::1 with linespoints pt 7 title '%s, p50'" %
                     (i, medium))
        parts.append("$f%d using 0:3 every ::1 axes x1y2 with linespoints dt 2 title '%s, ratio'" %
                     (i, medium))
    if not parts:
        return
    script += ["set title '%s: frame size'" % kind, "set xlabel 'frame'", "set logscale y",
               "set ylabel 'random 4 KiB fault, p50 us'", "set y2label 'ratio'", "set y2tics",
               "plot " + ", ".join(parts)]
    gnuplot(os.path.join(directory, "frames-%s.svg" % kind), script)


def draw(results, directory):
    os.makedirs(directory, exist_ok=True)
    for kind in results.bench.options.models:
        for scenario in ("mmap", "load", "direct", "threads"):
            bar_plot(results, kind, scenario, "rate", "MB/s of the model", directory, True)
        bar_plot(results, kind, "random", "p50_us", "p50 us", directory, False)
        frame_plot(results, kind, directory)
