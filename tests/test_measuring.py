"""The programs that measure: their arithmetic, and that they run."""

import importlib.machinery
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sim.broker import MOSQUITTO

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("soak", str(SCRIPTS / "soak"))
    spec = importlib.util.spec_from_loader("soak", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look their module up
    path = list(sys.path)
    loader.exec_module(module)
    yield module
    sys.path[:] = path


def samples(soak: ModuleType, count: int, every_s: float = 10.0) -> list:
    return [
        soak.Sample(i * every_s, 90_000.0 + i, 40_000.0, 8, 9, -1 if i == 0 else i, 10 * i, 0)
        for i in range(count)
    ]


def test_a_line_is_found_again(soak) -> None:
    times_s = [10.0 * i for i in range(100)]

    fit = soak.slope(times_s, [90_000 + 3000 / 3600 * time_s for time_s in times_s])

    assert fit.kb_per_hour == pytest.approx(3000)
    assert fit.error_kb_per_hour == pytest.approx(0, abs=1e-6)
    assert fit.grows


def test_slope_and_its_error_are_those_of_the_textbook(soak) -> None:
    rng = np.random.default_rng(1)
    times_s = np.arange(60) * 10.0
    kb = 90_000 + rng.normal(0, 40, 60)

    fit = soak.slope(list(times_s), list(kb))

    coefficients, covariance = np.polyfit(times_s / 3600, kb, 1, cov=True)
    assert fit.kb_per_hour == pytest.approx(coefficients[0])
    assert fit.error_kb_per_hour == pytest.approx(math.sqrt(covariance[0, 0]))


def test_noise_is_no_growth_and_neither_is_a_little(soak) -> None:
    from benchmark.slopes import Slope

    assert not Slope(1500, 800).grows
    assert not Slope(900, 1).grows
    assert not Slope(-5000, 1).grows
    assert Slope(1500, 700).grows


def test_two_moments_make_no_line(soak) -> None:
    assert soak.slope([0.0, 10.0], [1.0, 2.0]) is None


def test_the_beginning_does_not_count(soak) -> None:
    night = soak.settled(samples(soak, 2881))
    short = soak.settled(samples(soak, 13))

    assert (night[0].t_s, len(night)) == (1800.0, 2701)
    assert (short[0].t_s, len(short)) == (40.0, 9)


def test_the_table_is_thinned_and_keeps_the_last_row(soak) -> None:
    lines = soak.table(samples(soak, 361), rows=10).splitlines()

    assert len(lines) == 2 + 10 + 1
    assert lines[2] == "| 0:00:00 | 87.89 | 39.06 | 8 | 9 |  | 0 | 0 |"
    assert lines[-1] == "| 1:00:00 | 88.24 | 39.06 | 8 | 9 | 360 | 3600 | 0 |"
    assert {line.count("|") for line in lines} == {9}


def test_disorder_counts_first_appearances_only(soak) -> None:
    from benchmark.world import disorder

    assert disorder([1, 2, 3]) == 0
    assert disorder([1, 2, 1, 2, 3]) == 0  # sent again after a broken connection
    assert disorder([1, 3, 2, 4]) == 1


def test_a_figure_says_which_bound_it_keeps(soak) -> None:
    from benchmark.figures import Figure

    def verdict(*values: float, most: bool) -> str:
        return Figure("x", values, must=0.90, aim=0.92, most=most).verdict

    assert verdict(0.5, 0.95, 0.99, most=False) == "aim"
    assert verdict(0.91, most=False) == "must"
    assert verdict(0.89, most=False) == "MISSED"
    assert verdict(0.89, most=True) == "aim"
    assert verdict(0.93, most=True) == "MISSED"
    assert Figure("x", (1.0, 2.0, 4.0)).row() == "| x | 2.00 [1.00-4.00] |  |  |  |  |"


def deployments(count: int, **changes) -> list:
    from benchmark.growth import Sample

    usual = {"rss_kb": 9e4, "anonymous_kb": 4e4, "threads": 9, "descriptors": 9, "files": 20}
    return [
        Sample(**(usual | {key: change(i) for key, change in changes.items()}),
               deployments=10 * i, t_s=12.0 * i, disk_kb=500.0)
        for i in range(100)
    ]  # fmt: skip


def test_growth_over_deployments_is_told_from_the_first_third_and_from_noise(soak) -> None:
    from benchmark.growth import grown

    noise = np.random.default_rng(1).normal(0, 300, 100)
    assert grown(deployments(100))[0] == []
    assert grown(deployments(100, rss_kb=lambda i: 9e4 + 500 * min(i, 33) + noise[i]))[0] == []
    assert grown(deployments(100, rss_kb=lambda i: 9e4 + 20 * i + noise[i]))[0] == ["more rss"]
    assert grown(deployments(100, descriptors=lambda i: 9 + (i > 80)))[0] == ["more descriptors"]
    assert grown(deployments(100, threads=lambda i: 9 + (i % 7 == 0)))[0] == []
    assert grown(deployments(100, files=lambda i: 20 + i // 10))[0] == ["more files"]
    assert "rss: +0 KB" in grown(deployments(100))[1][3]


def test_gaps_are_those_of_a_span_and_seqs_go_up_by_one(soak) -> None:
    from benchmark.swapping import Seen
    from benchmark.swaps import Span, gaps_ms, irregular

    moments_s = [1.0, 1.1, 1.2, 1.5, 1.6]
    seen = [Seen(s + 100, s, n, n, "1.0.0") for n, s in enumerate(moments_s, 1)]

    assert gaps_ms(seen, Span(1.05, 1.55), "arrived_s") == pytest.approx([100, 300])
    assert gaps_ms(seen, Span(0, 9), "captured_s") == pytest.approx([100, 100, 300, 100])
    assert irregular([1, 2, 3]) == 0
    assert irregular([1, 3, 4]) == 1
    assert irregular([1, 2, 2, 3]) == 1


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.broker
def test_the_benchmark_runs_without_any_data(tmp_path) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    written = tmp_path / "figures.json"

    done = run("scripts/bench", "--quick", "--only", "latency", "--data", str(tmp_path),
               "--json", str(written))  # fmt: skip

    assert "capture to publish p95" in done.stdout, done.stderr
    (figure,) = json.loads(written.read_text())["figures"]
    assert figure["unit"] == "ms"
    assert len(figure["values"]) == 1


@pytest.mark.broker
@pytest.mark.slow
def test_a_soak_of_seconds_loses_nothing(tmp_path) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    written = tmp_path / "soak.json"

    done = run("scripts/soak", "--minutes", "0.02", "--fps", "30", "--json", str(written))

    assert done.returncode == 0, (done.stdout, done.stderr)
    found = json.loads(written.read_text())
    assert found["samples"][-1]["received"] > 10
    assert found["slopes"]["rss_kb"]["error_kb_per_hour"] >= 0


@pytest.mark.slow
@pytest.mark.broker
def test_swaps_are_measured_without_any_data(tmp_path) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    written = tmp_path / "figures.json"

    done = run("scripts/bench", "--quick", "--only", "swaps", "--data", str(tmp_path),
               "--json", str(written))  # fmt: skip

    figures = {one["name"]: one for one in json.loads(written.read_text())["figures"]}
    assert figures["2 swaps, belt 96: lost or repeated seq"]["value"] == 0, done.stderr
    gaps = figures["largest gap between arrivals around a swap over that without, belt 96"]
    assert len(gaps["values"]) == 2


@pytest.mark.slow
@pytest.mark.broker
def test_deployments_in_a_row_are_counted(tmp_path) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    written = tmp_path / "soak.json"

    done = run("scripts/soak-deployments", "--deployments", "4", "--models", "2",
               "--json", str(written))  # fmt: skip

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert [one["deployments"] for one in json.loads(written.read_text())["samples"]] == [2, 4]
