from pathlib import Path
from typing import get_args

import pytest

from channels.errors import UserError
from orchestrator.spec.batching import BatchingSection
from samplers.choices import BALANCES, METHODS, MIXES, PACKS, SHUFFLES, STRATEGIES, TAILS, check_choice

PAGE = Path(__file__).parents[2] / "docs" / "sampling.md"
CHOICES = {"strategy": STRATEGIES, "pack": PACKS, "method": METHODS, "mix": MIXES, "tails": TAILS}
CHOICES |= {"shuffle": SHUFFLES, "balance": BALANCES}


@pytest.mark.parametrize("field", CHOICES)
def test_a_job_offers_what_samplers_know(field: str) -> None:
    assert get_args(BatchingSection.model_fields[field].annotation) == CHOICES[field]


@pytest.mark.parametrize("name", [*STRATEGIES, *METHODS, *TAILS, *SHUFFLES, *BALANCES])
def test_the_page_names_every_choice(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()


def test_an_unknown_choice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="method: unknown method 'best'; use one of equal, equal_tokens, quantile"):
        check_choice("method", "best", METHODS)
