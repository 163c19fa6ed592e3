#!/usr/bin/env python3
"""Holds what is in this folder against the program: `make lint-deploy` calls it, with the tools installed.

Tools look at what they know (hadolint, shellcheck, promtool, systemd-analyze). What no tool knows is compared with the
sources: every metric, label value and setting that is named here must be one of Penstock's. Changes nothing but the cache.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = pathlib.Path(os.environ.get("PENSTOCK_CACHE_DIR") or pathlib.Path.home() / ".cache/penstock").absolute()
PROMTOOL = CACHE / "bin/promtool"
TOOLS = pathlib.Path(sys.executable).parent
# Prometheus's own.
FOREIGN = {"up", "ALERTS"}
# Where the values of labels are spelt.
VALUES = {
    "outcome": ["server/telemetry/src/outcome.rs"],
    "reason": ["server/domain/src/error.rs", "server/telemetry/src/outcome.rs", "server/scaler/src/decide.rs"],
    "stage": ["server/telemetry/src/version.rs"],
    "direction": ["server/telemetry/src/version.rs"],
    "kind": ["server/telemetry/src/device.rs"],
    "class": ["gpu/inventory/src/fault.rs"],
}
# Of 10, as `systemd-analyze security` rates the unit: below it, a service is well closed in.
EXPOSURE_MAX = 3.0

problems = []


def wrong(file, text):
    problems.append(f"{pathlib.Path(file).relative_to(ROOT)}: {text}")


def run(file, *command, silent=False, **options):
    """A tool over a file; with `silent`, whatever it says is wrong."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0 or (silent and done.stdout.strip()):
        wrong(file, f"{pathlib.Path(str(command[0])).name}:\n{done.stdout.strip()}")


def sources(pattern):
    found = sorted(ROOT.glob(pattern))
    if not found:
        sys.exit(f"deploy/lint.py: nothing is called {pattern} any more, and names are checked against it")
    return "".join(file.read_text() for file in found)


# --- images


def images():
    for file in sorted(HERE.glob("container/Dockerfile*")):
        run(file, TOOLS / "hadolint", "--no-color", file)
        copied = re.findall(r"^COPY (?!.*--from)(?:--\S+ )*(.+) \S+$", file.read_text(), re.MULTILINE)
        for source in " ".join(copied).split():
            if not (ROOT / source).exists():
                wrong(file, f"COPY {source}: there is no such thing")
            elif source != "." and not reaches_the_builder(source):
                wrong(file, f"COPY {source}: .dockerignore keeps it out")
    for file in sorted(HERE.glob("container/compose*.yaml")):
        compose(file)
    for file in [HERE / "keys.sh", *sorted(HERE.glob("container/*.sh"))]:
        run(file, TOOLS / "shellcheck", file)


def reaches_the_builder(source):
    """Only what the file lets through by name does; what it takes back is never copied by name."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return any(source == name or source.startswith(name + "/") for name in let_through)


def compose(file):
    described = yaml.safe_load(file.read_text())
    for name, service in described["services"].items():
        paths = [volume["source"] if isinstance(volume, dict) else volume.split(":")[0] for volume in service.get("volumes", [])]
        paths += [f"../../{service['build']['dockerfile']}"] if "build" in service else []
        for path in paths:
            if path.startswith(".") and not (file.parent / path).exists():
                wrong(file, f"{name}: there is no {path}")
        for secret in service.get("secrets", []):
            if secret not in described["secrets"]:
                wrong(file, f"{name}: there is no secret {secret}")


# --- the unit


def unit():
    file = HERE / "systemd/penstock.service"
    analyze, environment = systemd_analyze()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / file.name
        # The program is not installed here.
        copy.write_text(file.read_text().replace("/usr/local/bin/penstock", "/bin/true"))
        run(file, analyze, "verify", "--man=no", copy, silent=True, env=environment)
        threshold = f"--threshold={int(EXPOSURE_MAX * 10)}"
        run(file, analyze, "security", "--offline=true", "--no-pager", threshold, copy, env=environment)


def systemd_analyze():
    """The system's, else Debian's package with what it needs, unpacked into the cache without installing it."""
    found = shutil.which("systemd-analyze")
    if found:
        return found, None
    folder = CACHE / "systemd"
    if not (folder / "ok").exists():
        print("fetching systemd-analyze from the distribution", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "packages").mkdir(parents=True)
        unpack(folder)
        (folder / "ok").touch()
    libraries = [str(path) for pattern in ("usr/lib/*/systemd", "usr/lib/*-linux-gnu", "lib/*-linux-gnu") for path in folder.glob(pattern)]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "SYSTEMD_UNIT_PATH": f"{folder}/usr/lib/systemd/system:{folder}/lib/systemd/system"}
    return folder / "usr/bin/systemd-analyze", environment


def unpack(folder):
    simulate = ["apt-get", "install", "--simulate", "-qq", "--no-install-recommends", "systemd"]
    try:
        said = subprocess.run(simulate, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if said.returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            said = subprocess.run(simulate, stdout=subprocess.PIPE, text=True, check=True)
        packages = re.findall(r"^Inst (\S+)", said.stdout, re.MULTILINE)
        subprocess.run(["apt-get", "download", "-qq", "--option=APT::Sandbox::User=root", *packages], check=True, cwd=folder / "packages")
        for package in (folder / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"deploy/lint.py: there is no systemd-analyze here, and it cannot be had from a Debian archive: {error}")
    shutil.rmtree(folder / "packages")


# --- EC2


class Template(yaml.SafeLoader):
    """CloudFormation's own tags are read as what they are put before."""


def plain(loader, _, node):
    construct = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence, yaml.MappingNode: loader.construct_mapping}
    return construct[type(node)](node)


Template.add_multi_constructor("!", plain)


def listed(value):
    return value if isinstance(value, list) else [value]


def aws():
    """The stack is one, and lets the operator role do what the program does with it, no more and no less."""
    file, script = HERE / "aws/stack.yaml", ROOT / "server/ec2/user-data.sh"
    run(file, TOOLS / "cfn-lint", "--non-zero-exit-code", "informational", file)
    run(script, TOOLS / "shellcheck", script)
    code = sources("server/ec2/src/*.rs") + sources("server/ec2/src/provider/*.rs")
    called = {f"ec2:{action}" for action in re.findall(r'\.(?:ec2|ec2_of_new|pages)\(\s*"(\w+)"', code)} | {"ssm:GetParameter"}
    # A fleet launches with these on the caller's behalf.
    called |= {"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole"}
    role = yaml.load(file.read_text(), Template)["Resources"]["OperatorRole"]["Properties"]
    statements = [one for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"]]
    allowed = {action for one in statements for action in listed(one["Action"])}
    for action in sorted(called - allowed):
        wrong(file, f"the operator role may not {action}, and the program calls it")
    for action in sorted(allowed - called):
        wrong(file, f"the operator role may {action}, and the program does not call it")
    (tag,) = re.findall(r'FLEET_TAG: &str = "([\w:]+)"', code)
    for one in statements:
        changing = [action for action in listed(one["Action"]) if re.match("ec2:(Create|Terminate|Delete)", action)]
        own = any("Tag/" in key for test in one.get("Condition", {}).values() for key in test)
        if any("Tag/" in key and not key.endswith(f"Tag/{tag}") for test in one.get("Condition", {}).values() for key in test):
            wrong(file, f"{one['Sid']}: the tag of a fleet is {tag}")
        if changing and not own and one["Sid"] not in ("UseParts", "UseImages"):
            wrong(file, f"{one['Sid']}: {', '.join(changing)} is to be for what has the tag {tag} alone")


# --- metrics


def series():
    """Every series that there can be, by name."""
    names = re.findall(r'= (counter|gauge|histogram)\(\s*"(\w+)"', sources("server/telemetry/src/names.rs"))
    known = set()
    for kind, name in names:
        known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return known


def named(expression):
    """The series that an expression names: what is left of it without texts, selectors, ranges, groupings and functions."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*(\([^)]*\))?", " ", text)
    text = re.sub(r"\boffset\s+\w+|\b\d\S*", " ", text)
    return set(re.findall(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()", text)) - {"and", "or", "unless", "bool"}


def check_expression(file, where, expression, known, words, job):
    for name in sorted(named(expression) - known - FOREIGN):
        wrong(file, f"{where}: there is no metric {name}")
    for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', expression):
        if label in words:
            for word in sorted(set(value.split("|")) - words[label] - {""}):
                wrong(file, f"{where}: no metric has {label}={word!r}")
        if label == "job" and value != job:
            wrong(file, f"{where}: job is {value!r}, and prometheus.yml calls it {job!r}")


def metrics():
    known = series()
    words = {label: set(re.findall(r'"([a-z_]+)"', "".join(map(sources, files)))) for label, files in VALUES.items()}
    config, rules, tests = (HERE / "prometheus" / name for name in ("prometheus.yml", "rules.yml", "rules_test.yml"))
    run(config, PROMTOOL, "check", "config", "--syntax-only", config)
    run(rules, PROMTOOL, "check", "rules", rules)
    run(tests, PROMTOOL, "test", "rules", tests)
    (job,) = [scrape["job_name"] for scrape in yaml.safe_load(config.read_text())["scrape_configs"]]
    tested = tests.read_text()
    for rule in [rule for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]]:
        alert = rule["alert"]
        check_expression(rules, alert, rule["expr"], known, words, job)
        for part in ("summary", "action"):
            if not rule["annotations"].get(part):
                wrong(rules, f"{alert}: it has no {part}")
            for name in re.findall(r"\b(?:penstock|nv|process)_\w+", rule["annotations"].get(part, "")):
                if not {name, f"{name}_sum"} & known:
                    wrong(rules, f"{alert}: its {part} names {name}, which is no metric")
        if rule["labels"].get("severity") not in ("critical", "warning"):
            wrong(rules, f"{alert}: its severity is to be critical or warning")
        if f'alertname="{alert}",' not in tested:
            wrong(tests, f"there is no case in which {alert} fires")
    for name in sorted(set(re.findall(r"series: '(\w+)", tested)) - known - FOREIGN):
        wrong(tests, f"there is no metric {name}")
    dashboards(known, words, job)


def dashboards(known, words, job):
    for file in sorted(HERE.glob("grafana/*.json")):
        board = json.loads(file.read_text())
        panels = board["panels"]
        if len({panel["id"] for panel in panels}) != len(panels):
            wrong(file, "two panels have one id")
        expressions, taken = [], {}
        for panel in panels:
            title, place = panel["title"], panel["gridPos"]
            for cell in [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]:
                if taken.setdefault(cell, title) != title:
                    wrong(file, f"{title}: it lies over {taken[cell]}")
            expressions += [(title, target["expr"]) for target in panel.get("targets", [])]
        variables = {variable["name"] for variable in board["templating"]["list"]}
        for variable in board["templating"]["list"]:
            for selector in re.findall(r"label_values\((.*), \w+\)", variable.get("definition", "")):
                expressions.append((variable["name"], selector))
        groups = []
        for at, (where, expression) in enumerate(expressions):
            filled = expression.replace("$__rate_interval", "5m")
            for variable in variables:
                filled = filled.replace(f"${variable}", ".*")
            if "$" in filled:
                wrong(file, f"{where}: a variable of {expression!r} is not the dashboard's")
            check_expression(file, where, filled, known, words, job)
            groups.append({"name": f"{at}: {where}", "rules": [{"record": "here", "expr": filled}]})
        # As rules, so that promtool reads them.
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as as_rules:
            yaml.safe_dump({"groups": groups}, as_rules)
            as_rules.flush()
            run(file, PROMTOOL, "check", "rules", "--lint=none", as_rules.name)


# --- settings


def settings():
    fields = sources("server/penstock/src/fields/*.rs")
    keys = set(re.findall(r'key: "([\w.]+)"', fields))
    variables = set(re.findall(r'"(PENSTOCK_\w+)"', fields + sources("server/penstock/src/**/*.rs")))
    own = set(re.findall(r'"(penstock\.\w+)"', sources("server/repository/src/settings/*.rs")))
    areas = {key.split(".")[0] for key in keys if "." in key}
    key = re.compile(r"(?<![\w./-])(?:%s)\.[a-z][a-z_0-9]+\b(?![./(])" % "|".join(sorted(areas)))
    files = [file for file in HERE.rglob("*") if file.is_file() and file.suffix not in (".py", ".json") and "secrets" not in file.parts]
    here = {file.name for file in HERE.rglob("*")}
    texts = {file: file.read_text() for file in sorted(files)}
    # Of the images and of compose, and of nobody else.
    variables |= set(re.findall(r"(?:ARG |\$\{)(PENSTOCK_\w+)(?==|:\?)", "".join(texts.values())))
    for file, text in texts.items():
        for name in sorted(set(re.findall(r"\bPENSTOCK_[A-Z_]+\b", text)) - variables):
            wrong(file, f"no setting has the variable {name}")
        for name in sorted(set(key.findall(text)) - keys):
            wrong(file, f"there is no setting {name}")
        for name in sorted(set(re.findall(r"(?<![\w/-])penstock\.[a-z][a-z_]+\b(?!\.)", text)) - own - here):
            wrong(file, f"a config.pbtxt has no {name}")


def main():
    for check in (images, unit, aws, metrics, settings):
        check()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(f"deploy: {len(problems)} {'thing is' if len(problems) == 1 else 'things are'} wrong")
    print("deploy: images, unit, stack, alerts, dashboard and settings are as the program has them")


if __name__ == "__main__":
    main()
