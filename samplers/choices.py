"""Names of the ways to batch, in one place for job specs, plans, schedules and the command line."""

from typing import Literal, get_args

from channels.errors import UserError

Strategy = Literal["bucket", "packed", "global", "alternating", "alternating_sets", "sequential"]
Pack = Literal["bucket", "global"]
Method = Literal["equal", "equal_tokens", "quantile", "optimal"]
Mix = Literal["none", "step"]
Tails = Literal["fill", "mixed"]
Shuffle = Literal["shard", "sample"]
Balance = Literal["cost", "count"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PACKS: tuple[Pack, ...] = get_args(Pack)
METHODS: tuple[Method, ...] = get_args(Method)
MIXES: tuple[Mix, ...] = get_args(Mix)
TAILS: tuple[Tails, ...] = get_args(Tails)
SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)
BALANCES: tuple[Balance, ...] = get_args(Balance)


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError for a value that is none of the choices, and names them."""
    if value not in choices:
        raise UserError(f"unknown {field} {value!r}", where=field, mend=f"use one of {', '.join(choices)}")
