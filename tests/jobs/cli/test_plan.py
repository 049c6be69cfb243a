import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from channels.errors import UserError
from jobs.cli.planning.command import plan
from samplers.choices import STRATEGIES

PUBLISHED = ["--preset", "hetercsi", "--sets", "40", "--samples", "9000", "--batch", "128"]
PNG = b"\x89PNG\r\n"


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(plan)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "padding"),
    [
        (["--buckets", "4", "--method", "equal"], 0.2519),
        (["--buckets", "8", "--method", "equal"], 0.1356),
        (["--buckets", "4", "--method", "optimal", "--min-sources", "2"], 0.0738),
        (["--strategy", "alternating"], 0.0),
    ],
)
def test_the_published_padding(arguments: list[str], padding: float) -> None:
    assert json.loads(run(*PUBLISHED, *arguments, "--json"))["padding"] == padding


def test_the_published_padding_without_buckets() -> None:
    description = json.loads(run(*PUBLISHED, "--strategy", "global", "--json"))
    assert description["padding"] == pytest.approx(0.589, abs=0.005)
    assert description["method"] is None


def test_json_tells_buckets_and_steps() -> None:
    arguments = ["--batch", "120", "--partitions", "8", "--epochs", "3", "--method", "optimal", "--buckets", "3"]
    description = json.loads(run("--preset", "demo", "--sets", "8", "--samples", "500", *arguments, "--json"))
    assert (description["sets"], description["samples"], description["partitions"]) == (8, 4000, 8)
    assert len(description["buckets"]) == 3
    assert sum(bucket["samples"] for bucket in description["buckets"]) == 4000
    assert description["steps"] == sum(-(-bucket["samples"] // 120) for bucket in description["buckets"])
    assert description["total_steps"] == 3 * description["steps"]
    assert description["fillers"] == pytest.approx(1 - 4000 / (120 * description["steps"]), abs=1e-6)
    first = description["buckets"][0]
    assert first["shortest"] <= first["longest"] < description["buckets"][1]["shortest"]


def test_a_token_budget_replaces_the_batch() -> None:
    arguments = ["--batch-tokens", "2048", "--partitions", "4", "--strategy", "alternating"]
    description = json.loads(run("--preset", "demo", "--samples", "500", *arguments, "--json"))
    for bucket in description["buckets"]:
        assert bucket["batch"] == 2048 // bucket["longest"] // 4 * 4


@pytest.mark.parametrize(("pack", "buckets"), [("bucket", 4), ("global", 1)])
def test_a_packed_plan_has_no_padding_and_tells_the_load(pack: str, buckets: int) -> None:
    arguments = ["--strategy", "packed", "--pack", pack, "--buckets", "4"]
    description = json.loads(run(*PUBLISHED, *arguments, "--json"))
    assert (description["padding"], len(description["buckets"])) == (0.0, buckets)
    assert {bucket["padding"] for bucket in description["buckets"]} == {0.0}
    assert description["rank_tokens"]["largest"] == 128 * 768
    assert description["rank_tokens"]["mean"] == pytest.approx(description["tokens_per_step"], rel=0.01)
    assert "one rank computes" in run(*PUBLISHED, *arguments)


def test_table_and_picture(tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    table = run(*PUBLISHED, "--buckets", "4", "--method", "equal", "--picture", str(picture))
    assert "padding 25.19 %" in table
    assert "P05 P03 P33" in table
    assert "2,816 steps an epoch" in table
    assert picture.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_can_be_drawn(strategy: str, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    run("--preset", "demo", "--samples", "200", "--batch", "64", "--strategy", strategy, "--picture", str(picture))
    assert picture.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sets", "41"], "41 pre-training sets"),
        (["--min-sources", "41"], "up to 40 sets"),
        (["--batch", "100", "--partitions", "8"], "use 96 or 104"),
        (["--samples", "100", "--strategy", "alternating"], "holds 100 samples, fewer than the batch of 128"),
        (["--batch", "64", "--batch-tokens", "4096"], "one of batch, batch_tokens and batch_flops"),
        (["--buckets", "8"], "8 buckets for 7 distinct lengths"),
        (["--picture", "plan.jpg"], "ending .png"),
        (["--picture", "nowhere/plan.png"], "no such folder"),
    ],
)
def test_bad_choices_are_told_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        run("--preset", "hetercsi", "--json", *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["job.yaml", "--buckets", "8"], "--buckets: it is for --preset"),
        (["job.yaml", "--seed", "0"], "--seed: it is for --preset"),
        (["job.yaml", "--min-entropy", "0"], "--min-entropy: it is for --preset"),
        (["job.yaml", "--memory-gb", "2"], "--memory-gb: it is the memory for --probe"),
        (["--preset", "demo", "--set", "seed=1"], "--set: it is for a job spec"),
        (["--preset", "demo", "--probe"], "--probe: it is for a job spec"),
        (["--preset", "demo", "--cluster", "laptop"], "--cluster: it is for a job spec"),
        (["job.yaml", "--preset", "demo"], "either a job spec or --preset"),
        ([], "either a job spec or --preset"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(*arguments)


def test_the_help_names_the_defaults() -> None:
    shown = " ".join(run("--help").replace("│", " ").split())
    assert all(f"(default {value})" in shown for value in (9000, 128, "optimal", "bucket"))
