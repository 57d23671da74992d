"""Goals of the read path, judged on one run's medians. They are told, never asserted:
a machine may be too small for one."""
import collections

Goal = collections.namedtuple("Goal", "name wanted found verdict")

SLOW = ("sd25", "sd90", "usb100")


def at_least(name, found, wanted, digits=2):
    if found is None or wanted is None:
        return None
    return Goal(name, ">= %.*f" % (digits, wanted), "%.*f" % (digits, found),
                "pass" if found >= wanted else "FAIL")


def share_of_line(results, medium, kind, scenario):
    """Rate / (ratio x medium)."""
    rate = results.median(medium, kind, scenario, "modelfs")
    ratio = results.ratio(medium, kind, scenario, "modelfs")
    own = results.medium_rate(medium)
    return rate / (ratio * own) if rate and ratio and own else None


def against(results, medium, kind, scenario, peer, mine="modelfs"):
    rate = results.median(medium, kind, scenario, mine)
    other = results.median(medium, kind, scenario, peer)
    return rate / other if rate and other else None


def line_goals(results, medium, kind):
    wanted = 0.97 if medium in SLOW else 0.95
    scenarios = ("mmap", "load") if medium in SLOW else ("mmap",)
    for scenario in scenarios:
        yield at_least("%s %s %s / (r x medium)" % (medium, kind, scenario),
                       share_of_line(results, medium, kind, scenario), wanted)
        if medium in SLOW:
            yield at_least("%s %s %s / plain+cat" % (medium, kind, scenario),
                           against(results, medium, kind, scenario, "plain+cat"), 1)


def evaluate(results):
    found = []
    media = [medium for medium in results.rates]
    kinds = sorted({cell[1] for cell in results.cells})
    for medium in media:
        for kind in kinds:
            if medium in SLOW + ("sata500",):
                found += line_goals(results, medium, kind)
            if medium == "sd90" and kind == "BF16":
                found.append(at_least("sd90 BF16 mmap / plain",
                                      against(results, medium, kind, "mmap", "plain"), 1.8))
            if medium == "nvme3000":
                found.append(at_least("nvme3000 %s mmap / plain" % kind,
                                      against(results, medium, kind, "mmap", "plain"), 1.1))
            if medium == "none":
                found.append(at_least("none %s mmap / plain" % kind,
                                      against(results, medium, kind, "mmap", "plain"), 0.6))
    return [goal for goal in found if goal]
