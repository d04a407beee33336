"""The alert rules and the dashboard name metrics and labels that the daemon serves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vectuned.daemon.reports.metrics import StatusCollector
from vectuned.daemon.reports.sources import Sources

CONFIG = Path(__file__).parents[4] / "config"
ALERTS, DASHBOARD = CONFIG / "prometheus-alerts.yml", CONFIG / "grafana-dashboard.json"
PAGE = CONFIG.parent / "daemon" / "docs" / "monitoring.md"
OF_PROMETHEUS = {"instance", "job"}  # labels that every scraped sample gets


def served() -> dict[str, set[str]]:
    """Return the labels of every metric that the daemon serves, by the name of its samples."""
    names = {}
    for family in StatusCollector(Sources({}, 1000, "metrics")).collect():
        suffix = "_total" if family.type == "counter" else ""
        labels: tuple[str, ...] = family._labelnames  # type: ignore[attr-defined]
        names[family.name + suffix] = {*labels, *OF_PROMETHEUS}
    return names


def alerts() -> dict[str, str]:
    """Return the text of each alert rule by its name."""
    _, *rules = re.split(r"^ +- alert: (\w+)\n", ALERTS.read_text(), flags=re.M)
    return dict(zip(rules[::2], rules[1::2], strict=True))


def expression(rule: str) -> str:
    match = re.search(r"^ +expr: (?:\|\n)?(.*?)\n +(?:for|labels):", rule, flags=re.M | re.S)
    assert match is not None, rule
    return " ".join(match[1].split())


def targets() -> Iterator[tuple[str, str]]:
    """Yield the expression and the legend of each target of the dashboard."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def unknown(expr: str, legend: str = "") -> set[str]:
    """Return the metrics and labels that an expression or its legend uses and the daemon does not serve."""
    metrics, names = served(), set(re.findall(r"\bvectuned_\w+", expr))
    known: set[str] = set().union(*(metrics.get(name, set()) for name in names))
    groups = re.findall(r"\b(?:on|by) \(([^)]*)\)", expr)
    labels = {label.strip() for group in groups for label in group.split(",")}
    labels |= set(re.findall(r'(\w+)=~?"', expr))
    labels |= set(re.findall(r"{{ ?(?:\$labels\.)?(\w+) ?}}", legend)) - {"value"}
    return (names - metrics.keys()) | (labels - known)


@pytest.mark.parametrize("name", list(alerts()))
def test_alert_names_what_the_daemon_serves_and_is_described(name: str) -> None:
    rule = alerts()[name]
    assert unknown(expression(rule), rule.partition("annotations:")[2]) == set()
    assert "summary:" in rule
    assert "description:" in rule
    assert f"`{name}`" in PAGE.read_text()


@pytest.mark.parametrize(("expr", "legend"), list(targets()))
def test_panel_names_what_the_daemon_serves(expr: str, legend: str) -> None:
    assert unknown(expr, legend) == set()


def test_unknown_finds_metrics_and_labels_that_are_not_served() -> None:
    assert unknown("vectuned_recall", "") == {"vectuned_recall"}
    assert unknown('vectuned_up{table="a"}', "{{database}} {{column}}") == {"table", "column"}
    assert unknown("sum by (role) (vectuned_up)") == {"role"}


def test_dashboard_has_panels_that_do_not_overlap_and_variables_that_are_used() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24, "Grafana's grid has 24 columns"
        taken |= cells
    variables = {each["name"] for each in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps([panels, board["templating"]]))) - {"__all"}
    assert used == variables


def test_every_metric_of_the_page_is_served() -> None:
    named = set(re.findall(r"`(vectuned_\w+)`", PAGE.read_text()))
    assert len(named) > 20
    assert named <= served().keys()


def test_prometheus_accepts_the_rules_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    # JSON is YAML.
    rules = [{"record": f"panel_{number}", "expr": expr} for number, (expr, _) in enumerate(targets())]
    panels = tmp_path / "panels.yml"
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    for file, count in ((ALERTS, len(alerts())), (panels, len(rules))):
        done = subprocess.run(
            [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{count} rules found" in done.stdout


CASES = [
    # A database has two daemons, one of which stands by: both serve its figures.
    (
        "VectunedRecallLow",
        {"vectuned_served_epoch_bound": "0.85", "vectuned_target_recall": "0.95"},
        120,
        True,
    ),
    (
        "VectunedRecallLow",
        {"vectuned_served_epoch_bound": "0.91", "vectuned_target_recall": "0.95"},
        120,
        False,
    ),
    ("VectunedRecallAlarm", {"vectuned_alarms_total": "0x30 1"}, 32, True),
    ("VectunedRecallAlarm", {"vectuned_alarms_total": "3"}, 120, False),
    ("VectunedDown", {"vectuned_up": "0"}, 10, True),
    ("VectunedDown", {"vectuned_up": "1"}, 10, False),
    ("VectunedAbsent", {"vectuned_replays": "1"}, 30, True),
    ("VectunedJobFailing", {"vectuned_job_failures": "4"}, 20, True),
    ("VectunedJobFailing", {"vectuned_job_failures": "3"}, 20, False),
    ("VectunedColumnFailing", {"vectuned_column_failures": "4"}, 20, True),
    ("VectunedColumnUnread", {"vectuned_column_unread": "1"}, 20, True),
    ("VectunedBehind", {"vectuned_behind": "1"}, 90, True),
    ("VectunedBehind", {"vectuned_behind": "0"}, 90, False),
    ("VectunedAdoptionAlarm", {"vectuned_adoption_alarms": "2"}, 20, True),
]


@pytest.mark.parametrize(("alert", "samples", "minutes", "fires"), CASES)
def test_alert_fires_in_prometheus_when_it_should(
    tmp_path: Path, alert: str, samples: dict[str, str], minutes: int, fires: bool
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    series = []
    for instance in ("one:9187", "two:9187"):
        for name, values in samples.items():
            labels = {label: "x" for label in served()[name] if label not in OF_PROMETHEUS}
            text = ", ".join(f'{key}="{value}"' for key, value in {**labels, "instance": instance}.items())
            series.append(
                {"series": f"{name}{{{text}}}", "values": values if " " in values else f"{values}x{minutes}"}
            )
    # Promtool compares the alerts that fire with those expected: none are, so that it names any that does.
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(test))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert (done.returncode != 0) == fires, text
    assert ("got:" in text) == fires, text
