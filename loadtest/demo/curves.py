"""The plot and the figures of the scaling demo."""

import datetime
import os
import platform

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 900, 130, 60, 20, 30, 40
COLOURS = {"offered": "#888888", "done": "#1f77b4", "capacity": "#2ca02c", "refused": "#d62728", "instances": "#9467bd", "environments": "#2ca02c",
           "p50": "#1f77b4", "p95": "#ff7f0e"}


def seconds(timestamp):
    """Since the epoch, of a log's time."""
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def quantile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0


def per_second(requests, of):
    """Of the requests of each second, what `of` makes of them."""
    last = int(max(one["at"] for one in requests)) + 1
    by_second = [[] for _ in range(last + 1)]
    for one in requests:
        by_second[int(one["at"])].append(one)
    return [(at + 0.5, of(some)) for at, some in enumerate(by_second)]


def draw(run, seen, service_s, load):
    story = [one for one in run.requests if one["at"] < seen["burst_at"]]
    end = seen["burst_at"]
    count = lambda test: per_second(story, lambda some: sum(map(test, some)))  # noqa: E731
    took = lambda part: per_second(story, lambda some: quantile([1000 * one["took"] for one in some if one["status"] == 200], part))  # noqa: E731
    capacity = [(one["at"], one["environments"] / service_s) for one in run.samples]
    panels = [
        ("requests a second", {"capacity": capacity, "offered": count(lambda _: True), "done": count(lambda one: one["status"] == 200)}),
        ("refused a second", {"refused": count(lambda one: one["status"] != 200)}),
        ("instances, environments", {"environments": [(one["at"], one["environments"]) for one in run.samples],
                                     "instances": [(one["at"], one["instances"]) for one in run.samples]}),
        ("latency, ms", {"p95": took(0.95), "p50": took(0.5)}),
    ]
    marks = [(seen["killed_at"], "an instance is killed", 22), (seen["first"]["at"], "first request after the quiet", 22)]
    marks += [(start, f"{rate}/s", 10) for start, rate in load]
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']
    x = lambda at: LEFT + (WIDTH - LEFT - RIGHT) * at / end  # noqa: E731
    for index, (title, lines) in enumerate(panels):
        top = TOP + index * (HEIGHT + GAP)
        most = max([value for points in lines.values() for at, value in points if at <= end] + [1])
        y = lambda value, top=top, most=most: top + HEIGHT * (1 - value / most)  # noqa: E731
        parts.append(f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>')
        for tick in (0, most / 2, most):
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#dddddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0f}</text>')
        for at, words, down in marks:
            parts.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#bbbbbb" stroke-dasharray="3 3"/>')
            if index == 0:
                side, anchor = (3, "start") if x(at) < 0.75 * WIDTH else (-3, "end")
                parts.append(f'<text x="{x(at) + side:.1f}" y="{top + down}" text-anchor="{anchor}" fill="#777777">{words}</text>')
        for offset, (name, points) in enumerate(lines.items()):
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points if at <= end)
            parts.append(f'<polyline fill="none" stroke="{COLOURS[name]}" stroke-width="1.5" points="{path}"/>')
            parts.append(f'<text x="{WIDTH - RIGHT - 90 * (len(lines) - offset)}" y="{top - 8}" fill="{COLOURS[name]}">{name}</text>')
        for at in range(0, int(end) + 1, 10):
            parts.append(f'<text x="{x(at):.1f}" y="{top + HEIGHT + 14}" text-anchor="middle">{at} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def figures(run, seen, service_s, times, rotated, ends):
    story = [one for one in run.requests if one["at"] < seen["first"]["at"] - 0.001]
    aged, rotation = rotated
    said = lambda counted: ", ".join(f"{count:,} {name}" for name, count in counted.items())  # noqa: E731
    late = lambda value: "not seen" if value is None else f"{value:.2f} s"  # noqa: E731
    rows = [
        ("load that grows six times over: to the decision for more environments (aim 2 s)", late(times["decided"][0])),
        ("load that doubles: to the decision for more environments (aim 2 s)", late(times["decided"][1])),
        ("from these decisions to the first new environment being ready, on an instance that is launched for it or has room",
         " and ".join(map(late, times["ready"]))),
        (f"an instance killed under load: to its {seen['lost']} environments being ready elsewhere", late(times["back"])),
        ("all requests until the quiet spell", said(ends(story))),
        ("instances and environments after the quiet spell, and how long after the last request",
         f"{seen['rested']['instances']} and {seen['rested']['environments']}, {seen['rested']['at'] - max(one['at'] for one in story):.0f} s"),
        ("the first request after it", f"{seen['first']['status']} in {seen['first']['took']:.2f} s"),
        ("of that, from the decision for an environment to the answer (an instance, the environment, its 50 ms of service)", late(times["answered"])),
        (f"1,000 at once to one environment of {1 / service_s:.0f}/s, which may become 16", said(ends(seen["burst"]))),
        (f"rotation: {aged} instances replaced in 20 s at 30/s", said(rotation)),
    ]
    table = "\n".join(f"| {what} | {figure} |" for what, figure in rows)
    return f"""# Scaling on one machine

By `make demo-scaling`, on {os.cpu_count()} cores ({platform.machine()}). Instances are processes of this machine, of 3 vCPU each, 48 at most; an
environment takes one and serves {1 / service_s:.0f} requests a second. `scaling.svg` beside this shows it.

| what | measured |
|---|---|
{table}
"""
