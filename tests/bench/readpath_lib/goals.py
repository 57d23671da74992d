"""Goals of the read path, judged on the medians of one run. They are told, never
asserted: a machine may be too small for one. Beside what was found stands, where it was
measured, what FUSE itself reached, without the work of emulating a medium."""
import collections

Goal = collections.namedtuple("Goal", "name wanted found verdict fuse")

SLOW = ("sd25", "sd90", "usb100")
FUSE = "fuse-only"
COMPRESSED = ("erofs-64k", "erofs-1m", "squashfs", "btrfs")
SEQUENTIAL = ("mmap", "load", "direct", "threads")
MIB = 1 << 20


def at_least(name, found, wanted, digits=2, fuse=None):
    if found is None or wanted is None:
        return []
    return [Goal(name, ">= %.*f" % (digits, wanted), "%.*f" % (digits, found),
                 "pass" if found >= wanted else "FAIL",
                 "" if fuse is None else "%.*f" % (digits, fuse))]


def at_most(name, found, wanted, digits=2, fuse=None):
    if found is None or wanted is None:
        return []
    return [at_least(name, found, wanted, digits, fuse)[0]._replace(
        wanted="<= %.*f" % (digits, wanted), verdict="pass" if found <= wanted else "FAIL")]


def quotient(a, b):
    return a / b if a is not None and b else None


def share_of_line(results, medium, kind, scenario):
    """Rate / (ratio x medium)."""
    rate = results.median(medium, kind, scenario, "modelfs")
    return quotient(quotient(rate, results.ratio(medium, kind, scenario, "modelfs")),
                    results.medium_rate(medium))


def against(results, medium, kind, scenario, peer, mine="modelfs", figure="rate"):
    return quotient(results.median(medium, kind, scenario, mine, figure),
                    results.median(medium, kind, scenario, peer, figure))


def line_goals(results, medium, kind):
    """As fast as the medium delivers stored bytes; never slower than plain + cat."""
    if medium not in SLOW + ("sata500",):
        return []
    found = []
    for scenario in ("mmap", "load"):
        name = "%s %s %s" % (medium, kind, scenario)
        found += at_least(name + " / (r x medium)", share_of_line(results, medium, kind, scenario),
                          0.97 if medium in SLOW else 0.95)
        if medium in SLOW:
            found += at_least(name + " / plain+cat",
                              against(results, medium, kind, scenario, "plain+cat"), 1)
    return found


def plain_goals(results, medium, kind):
    wanted = {"nvme3000": 1.1, "none": 0.6}.get(medium)
    if medium == "sd90" and kind == "BF16":
        wanted = 1.8
    return at_least("%s %s mmap / plain" % (medium, kind),
                    against(results, medium, kind, "mmap", "plain"), wanted,
                    fuse=against(results, medium, kind, "mmap", "plain", FUSE))


def peer_goals(results, medium, kind):
    """Faster than each compressing file system, and smaller where size is speed."""
    found = []
    for scenario in SEQUENTIAL:
        rates = [(results.median(medium, kind, scenario, peer), peer) for peer in COMPRESSED]
        best = max([(rate, peer) for rate, peer in rates if rate] or [(None, None)])
        name = "%s %s %s / %s, the fastest compressed peer" % (medium, kind, scenario, best[1])
        found += at_least(name, against(results, medium, kind, scenario, best[1]), 1,
                          fuse=against(results, medium, kind, scenario, best[1], FUSE))
        if medium == "none" and kind == "BF16" and scenario == "mmap":
            found += at_least("none BF16 mmap, sd container / " + str(best[1]),
                              quotient(results.median(medium, kind, scenario, "modelfs-sd"),
                                       best[0]), 1.5)
    ratios = [results.ratio(medium, kind, "mmap", peer) for peer in COMPRESSED]
    if medium in SLOW + ("sata500",) and any(ratios):
        found += at_least("%s %s ratio / best ratio of a compressed peer" % (medium, kind),
                          quotient(results.ratio(medium, kind, "mmap", "modelfs"),
                                   max(ratio for ratio in ratios if ratio)), 1, 3)
    return found


def random_goals(results, medium, kind):
    if kind == "BF16" and medium in ("sd90", "none"):
        return at_most("%s BF16 random p50, 64K frames / erofs-64k" % medium,
                       against(results, medium, kind, "random", "erofs-64k", "modelfs-64k",
                               "p50_us"), 1.1 if medium == "sd90" else 1)
    if kind.startswith("Q4_K") and medium == "sd90":
        return (at_most("sd90 %s random p50, us" % kind,
                        results.median(medium, kind, "random", "modelfs", "p50_us"), 2500, 0) +
                at_most("sd90 %s random p50, 64K frames, us" % kind,
                        results.median(medium, kind, "random", "modelfs-64k", "p50_us"),
                        2500, 0))
    return []


def warm_goals(results, medium, kind):
    """14 GB/s, or what a FUSE file system that only copies reaches."""
    fuse = results.median(medium, kind, "warm", FUSE)
    found = at_least("%s %s warm, MB/s" % (medium, kind),
                     results.median(medium, kind, "warm", "modelfs"),
                     min(14000, fuse) if fuse else 14000, 0, fuse)
    return found + at_most("%s %s warm, READs that reach modelfs" % (medium, kind),
                           results.median(medium, kind, "warm", "modelfs", "warm_reads"), 0, 0)


def small_ram_goals(results, medium, kind):
    if medium != "sd90":
        return []
    found = at_most("sd90 %s larger than RAM, bytes of a pass / (stored - cache)" % kind,
                    results.median(medium, kind, "small-ram", "modelfs", "pass_share"), 1.05)
    return found + at_least("sd90 %s larger than RAM, passes a minute / plain" % kind,
                            quotient(results.median(medium, kind, "small-ram", "plain",
                                                    "pass_seconds"),
                                     results.median(medium, kind, "small-ram", "modelfs",
                                                    "pass_seconds")),
                            2.5 if kind == "BF16" else 1.5)


def cpu_goals(results, medium, kind):
    if kind != "BF16":
        return []
    name = "%s BF16 mmap, CPU s/GB" % medium
    fuse = results.median(medium, kind, "mmap", FUSE, "cpu_per_gb")
    return (at_most(name, results.median(medium, kind, "mmap", "modelfs", "cpu_per_gb"), 1.2,
                    fuse=fuse) +
            at_most(name + ", plain spans",
                    results.median(medium, kind, "mmap", "modelfs-plain", "cpu_per_gb"), 0.8,
                    fuse=fuse))


def tokens_goals(results, medium, kind):
    def share(mine):
        return against(results, medium, kind, "tokens", "plain", mine, "tokens_per_second")
    return at_least("%s %s llama.cpp in memory, tokens a second / plain" % (medium, kind),
                    share("modelfs"), 0.97, fuse=share(FUSE))


def view_goals(results, medium, kind):
    """A merged view comes as fast as the medium delivers its base."""
    if medium not in SLOW:
        return []
    rate = results.median(medium, kind, "view", "modelfs-view")
    line = quotient(rate, results.ratio(medium, kind, "view", "modelfs-view"))
    return at_least("%s %s merged view / (r x medium)" % (medium, kind),
                    quotient(line, results.medium_rate(medium)), 0.97)


def route_goals(results, medium, kind):
    """Fetching ahead pays, and knowing the order from a trace costs nothing."""
    found = []
    for scenario in ("order", "moe"):
        name = "%s %s %s" % (medium, kind, scenario)
        for mine, other in (("modelfs", "modelfs-noprefetch"), ("modelfs", "plain"),
                            ("modelfs-replay", "modelfs"), ("modelfs-order", "modelfs")):
            found += at_least("%s, %s / %s" % (name, mine, other),
                              against(results, medium, kind, scenario, other, mine), 1)
    return found


def memory_goal(results):
    """The worst case of all runs: resident beyond arena, cache and loaded index."""
    worst = max([(run["beyond_memory"], cell) for cell, runs in results.cells.items()
                 for run in runs if "beyond_memory" in run] or [(None, None)],
                key=lambda item: item[0] or 0)
    if worst[0] is None:
        return []
    return at_most("daemon's peak memory - arena - cache - index, MiB (%s)" % " ".join(worst[1]),
                   worst[0] / MIB, 32, 0)


def evaluate(results):
    found = []
    pairs = []
    for medium, kind, _, _ in results.cells:
        if (medium, kind) not in pairs:
            pairs.append((medium, kind))
    for rule in (line_goals, plain_goals, peer_goals, random_goals, warm_goals, small_ram_goals,
                 cpu_goals, tokens_goals, view_goals, route_goals):
        for medium, kind in pairs:
            found += rule(results, medium, kind)
    return found + memory_goal(results)
