"""The figures as Markdown, as JSON and as the table of promises in README.md. Called by bench.py; measures nothing."""

import json

from .identity import SATURATED

BEGIN, END = "<!-- promises -->", "<!-- /promises -->"
COMMAND = "`make bench`"
AIM_IDENTITY, AIM_EMBEDDINGS = 0.80, 0.95


def write(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "bench.md").write_text(page(found))


def into_readme(path, found):
    """Replaces what stands between the markers; puts the end marker in if there is none yet."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    if not begin:
        before, rest = text.rstrip("\n") + "\n\n## Promises\n\n", "\n"
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{promises(found)}{END}{after if end else rest}")


def promises(found):
    rows = []
    for row in found["identity"]:
        if row["in_flight"] == SATURATED:
            rows.append((
                f"gRPC, {row['message']}, {SATURATED} in flight: {AIM_IDENTITY:.2f} of a bare echo's requests/s",
                f"{_spread(row['ratio'])}: {row['penstock_rps']:,.0f}/s", f"tonic echo: {row['echo_rps']:,.0f}/s"))
    for row in found["identity"]:
        if row["in_flight"] == SATURATED:
            cpu = row["cpu_us"]
            rows.append((
                f"the link and the process behind it, {row['message']}: processor time of a request",
                f"{row['link_us']:.1f} µs: environment {cpu['environment']:.1f}, front end {cpu['front_end']:.1f}",
                f"less the echo's {cpu['echo']:.1f} µs"))
    for name, what in (("short", "16 tokens"), ("long", "128 tokens"), ("mixed", "8 to 256 tokens")):
        cells = [row for row in found["embeddings"] if row["texts"] == name]
        flight = " / ".join(str(row["in_flight"]) for row in cells)
        ratios = " / ".join(f"{row['ratio']['median']:.2f}" for row in cells)
        rates = " / ".join(f"{row['penstock_rps']:.0f}" for row in cells)
        ceilings = " / ".join(f"{row['in_process_rps'][row['ratio_to']]:.0f}" for row in cells)
        rows.append((f"MiniLM over HTTP, {what}, {flight} in flight: {AIM_EMBEDDINGS:.2f} of onnxruntime in process",
                     f"{ratios}: {rates} requests/s", f"in process, batch {flight}: {ceilings}/s"))
    mixed = [row for row in found["embeddings"] if row["texts"] == "mixed"][-1]
    waste = mixed["padding_waste"]
    rows.append((f"padding waste on mixed lengths, {mixed['in_flight']} in flight", _percent(waste["penstock"]),
                 f"in process, in order of arrival: {_percent(waste['in_process'])}"))
    start, memory = found["start_up"], found["memory"]
    rows.append(("start to ready, three models, and to the first embedding",
                 f"{start['ready_s']:.2f} s, {start['first_answer_s']:.2f} s", f"median of {len(start['runs'])}"))
    for name in memory["rest_mib"]:
        rest, after = memory["rest_mib"][name], memory["after_mib"][name]
        rows.append((f"resident memory after load, {name}", f"{after['rss']:.0f} MiB",
                     f"at rest {rest['rss']:.0f} MiB"))
    table = "| what, and the aim | measured | ceiling or comparison, same run | command |\n|---|---|---|---|\n"
    table += "".join(f"| {' | '.join(row)} | {COMMAND} |\n" for row in rows)
    marks = "".join(f"\n**{mark}**\n" for mark in found["marks"])
    where = found["machine"]
    return (f"{table}\nMeasured {where['date']} on {where['cores']} cores ({where['cpu']}), the generator on the same "
            f"ones. Ratios are medians of alternating slices; all figures: `loadtest/reports/bench.md`.\n{marks}")


def page(found):
    where, about = found["machine"], found["reference"]
    parts = ["# Bench\n", f"{where['date']}, {where['cpu']}, {where['cores']} cores, Linux {where['kernel']}. "
             f"Load average at start {' '.join(map(str, where['load_average']))}; {where['busy_percent_at_start']} % busy "
             f"at start, {where['busy_percent_at_end']} % at the end, {where['stolen_percent']} % stolen by the "
             f"hypervisor in between. {where['seconds']:.0f} s in all.\n"]
    parts += [f"**{mark}**\n" for mark in found["marks"]]
    parts += ["## Identity over gRPC against a bare tonic echo of the same message\n",
              "Requests a second and processor time (µs) of a request; generator, server and echo share the cores. "
              "*Link* is the environment's time plus what the front end uses more than the echo does: everything that "
              "lies behind the door, the hand-over to another process among it.\n",
              _table(["message", "in flight", "Penstock/s", "echo/s", "ratio (lowest to highest)", "p50 ms", "p99 ms",
                      "front end", "environment", "echo", "link", "generator (of its core)"],
                     [[row["message"], row["in_flight"], f"{row['penstock_rps']:,.0f}", f"{row['echo_rps']:,.0f}",
                       _spread(row["ratio"]), _pair(row["p50_ms"], 2), _pair(row["p99_ms"], 2),
                       f"{row['cpu_us']['front_end']:.1f}", f"{row['cpu_us']['environment']:.1f}",
                       f"{row['cpu_us']['echo']:.1f}", f"{row['link_us']:.1f}",
                       f"{_pair(row['cpu_us']['generator'], 1)} ({_pair(row['generator_core_percent'], 0)} %)"]
                      for row in found["identity"]])]
    fused = ", ".join(f"{name} {count}" for name, count in about["fused"].items())
    parts += ["## MiniLM over HTTP against onnxruntime in process\n",
              f"The reference: onnxruntime {about['version']} from Python, {about['threads']} threads, all graph "
              f"optimisations, {about['nodes']} nodes before and {about['nodes_optimised']} after ({fused}); tokenizing "
              "and pooling included; batches of as many texts as the server has in flight, in order of arrival, padded "
              "to the longest. Same texts on both sides, new ones each round; rates count tokens and are told in texts of "
              f"the mean length. Lowest cosine to the goldens: reference {about['lowest_cosine_together']:.7f}, server "
              f"{about['server_lowest_cosine']:.7f}. The ratio is to the faster of the two references, whose threads wait "
              "spinning (onnxruntime's default) or not; Penstock's spin within a run only.\n",
              _table(["texts", "in flight", "Penstock/s", "spinning/s", "no spinning/s", "ratio (lowest to highest)",
                      "ratio to spinning", "ratio to no spinning", "rounds", "p50 ms", "p99 ms",
                      "padding waste, Penstock", "in process"],
                     [[row["texts"], row["in_flight"], f"{row['penstock_rps']:.1f}", row["in_process_rps"]["spinning"],
                       row["in_process_rps"]["no spinning"], _spread(row["ratio"]),
                       f"{row['ratios']['spinning']['median']:.3f}", f"{row['ratios']['no spinning']['median']:.3f}",
                       row["rounds"], f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}",
                       _percent(row["padding_waste"]["penstock"]), _percent(row["padding_waste"]["in_process"])]
                      for row in found["embeddings"]])]
    starts = [[number, f"{run['ready_s']:.2f}", f"{run['first_answer_s']:.2f}"]
              for number, run in enumerate(found["start_up"]["runs"], 1)]
    memory = found["memory"]
    columns = [(kind, when) for kind in ("rss", "pss", "private") for when in ("rest_mib", "after_mib")]
    rows = [[name, *(f"{memory[when][name][kind]:.1f}" for kind, when in columns)] for name in memory["rest_mib"]]
    parts += ["## Start-up\n", "From exec, three demo models, files in the page cache.\n",
              _table(["start", "ready line, s", "first embedding, s"], starts), "## Memory\n",
              f"MiB at rest and after {memory['requests']['identity']:,} requests of identity and "
              f"{memory['requests']['minilm']:,} embeddings of 16 tokens. PSS divides shared pages among their users.\n",
              _table(["process", "RSS at rest", "RSS after", "PSS at rest", "PSS after", "private at rest",
                      "private after"], rows)]
    return "\n".join(parts)


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _spread(spread):
    return f"{spread['median']:.2f} ({spread['lowest']:.2f} to {spread['highest']:.2f})"


def _pair(sides, digits):
    return " / ".join(f"{value:.{digits}f}" for value in sides.values())


def _percent(share):
    return "not counted" if share is None else f"{100 * share:.1f} %"
