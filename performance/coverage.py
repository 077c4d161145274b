"""Coverage of the 95 % intervals on simulated answers: writes docs/measures/coverage.md.

    python performance/coverage.py --runs 1000 --output docs/measures/coverage.md

The simulated questions differ in difficulty (normally distributed, on the logit scale for shares). A design says how
much of the variance of difficulty is common to all languages: all, half or none. Seeds answer most questions alike;
`of_seed` is the standard deviation of their means. The truth is the mean over all questions, and with several seeds
over all seeds.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from lensflow.mathematics import statistics
from lensflow.mathematics.statistics import Floats, Sample

NS = (24, 100, 200)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
SKEWS = (0.0, 0.5, 1.0, 1.5)  # skewness of questions
HARD = 2.0  # standard deviation of the questions' difficulty, in logits
ALIKE = 0.7  # of the answers are the same for all seeds
ANEW = 0.7  # of base's answers are given anew by a method
SHIFTS = (-1.0, 0.0, 1.0)  # of a method against base, in logits
SPREAD = np.linspace(-0.7, 0.7, 6)  # of six languages, in logits
QUANTILES = norm.ppf((np.arange(4000) + 0.5) / 4000)


@dataclass(frozen=True)
class Design:
    """What is simulated: languages, seeds, how much of a question's difficulty languages share, and seeds' spread."""

    languages: int
    seeds: int
    shared: float
    of_seed: float

    @property
    def text(self) -> str:
        """As the table shows it."""
        languages = "1 language" if self.languages == 1 else f"6 languages, {self.shared:.0%} of difficulty in common"
        return f"{languages}; {self.seeds} seed" + (f"s, sd {self.of_seed:g}" if self.seeds > 1 else "")


DESIGNS = (
    Design(1, 1, 0, 0),
    Design(1, 3, 0, 0),
    Design(1, 3, 0, 0.3),
    Design(6, 1, 0, 0),
    Design(6, 1, 0.5, 0),
    Design(6, 1, 1, 0),
    Design(6, 3, 0.5, 0),
    Design(6, 3, 0.5, 0.3),
)
Drawn = tuple[tuple[float, float], float]  # an interval, and what it should hold
Simulation = Callable[[np.random.Generator, Design, int, float], Iterator[Drawn]]


def logits(share: float, spread: float, languages: int) -> Floats:
    """Each language's logit, (L,), whose expected shares have this mean; difficulty has this standard deviation."""
    apart = SPREAD if languages > 1 else np.zeros(1)
    return apart + float(brentq(lambda logit: expected(logit + apart, spread) - share, -40, 40))


def expected(of_languages: Floats, spread: float) -> float:
    """Expected share, the mean over languages."""
    return float(expit(of_languages[:, None] + spread * QUANTILES).mean())


def difficulty(rng: np.random.Generator, design: Design, n: int) -> Floats:
    """(L, 1, n), standard normal."""
    own = rng.normal(size=(design.languages, 1, n))
    return np.asarray(math.sqrt(design.shared) * rng.normal(size=n) + math.sqrt(1 - design.shared) * own)


def luck(rng: np.random.Generator, shape: tuple[int, int, int], shared: Floats, alike: float) -> Floats:
    """Uniform (L, S, n), the shared (L, 1, n) for so many of the answers."""
    return np.where(rng.random(shape) < alike, shared, rng.random(shape))


def of_ones(numerators: NDArray[np.generic]) -> Sample:
    """A sample in which all items count as one."""
    return Sample(numerators.astype(float), np.ones(numerators.shape))


def share(rng: np.random.Generator, design: Design, n: int, truth: float) -> Iterator[Drawn]:
    """Interval of a share."""
    shape = (design.languages, design.seeds, n)
    logit = logits(truth, math.hypot(HARD, design.of_seed), design.languages)[:, None, None]
    while True:
        right = expit(logit + HARD * difficulty(rng, design, n) + design.of_seed * rng.normal(size=(design.seeds, 1)))
        shared = rng.random((design.languages, 1, n))
        yield statistics.interval(of_ones(luck(rng, shape, shared, ALIKE) < right)), truth


def pair(rng: np.random.Generator, design: Design, n: int, of_base: Floats, shift: float) -> tuple[Floats, Floats]:
    """Answers of base, which has one seed, and of a method's seeds: (L, 1, n) and (L, S, n), 0 or 1."""
    one, shape = (design.languages, 1, n), (design.languages, design.seeds, n)
    hard = of_base[:, None, None] + HARD * difficulty(rng, design, n)
    of_pair = rng.random(one)
    of_seeds = luck(rng, shape, luck(rng, one, of_pair, 1 - ANEW), ALIKE)
    after = of_seeds < expit(hard + shift + design.of_seed * rng.normal(size=(design.seeds, 1)))
    return (of_pair < expit(hard)).astype(float), after.astype(float)


def difference(rng: np.random.Generator, design: Design, n: int, of_base: float) -> Iterator[Drawn]:
    """Interval of a difference of shares, with each shift in turn."""
    for before, after, truth in pairs(rng, design, n, of_base):
        yield statistics.difference_interval(of_ones(before), of_ones(after)), truth


def conditional(rng: np.random.Generator, design: Design, n: int, of_base: float) -> Iterator[Drawn]:
    """The same of a share of the items that count, of base 60 % and of the method 80 %."""
    for before, after, truth in pairs(rng, design, n, of_base):
        chance = rng.random((design.languages, 1, n))
        counted = [np.broadcast_to(chance < 0.6, before.shape) * 1.0, np.broadcast_to(chance < 0.8, after.shape) * 1.0]
        samples = Sample(before * counted[0], counted[0]), Sample(after * counted[1], counted[1])
        yield statistics.difference_interval(*samples), truth


def pairs(rng: np.random.Generator, design: Design, n: int, of_base: float) -> Iterator[tuple[Floats, Floats, float]]:
    """Answers of base and of a method, and the true difference, with each shift in turn."""
    logit = logits(of_base, HARD, design.languages)
    truths = {shift: expected(logit + shift, math.hypot(HARD, design.of_seed)) - of_base for shift in SHIFTS}
    for shift in cycle(SHIFTS):
        yield *pair(rng, design, n, logit, shift), truths[shift]


def numbers(rng: np.random.Generator, design: Design, n: int, skew: float) -> tuple[Floats, Floats]:
    """Scores of base and of a method's seeds, of mean 0: (L, 1, n) and (L, S, n); skewness is that of the questions."""
    shape = 4 / skew**2 if skew else 0.0
    hard = difficulty(rng, design, n)
    if skew:
        gamma = rng.gamma(shape, size=(design.languages, 1, n))
        hard = (gamma - shape) / math.sqrt(shape)
    after = hard + design.of_seed * rng.normal(size=(design.seeds, 1))
    noise = rng.normal(size=(design.languages, design.seeds, n)), rng.normal(size=(design.languages, 1, n))
    return np.asarray(hard + 0.5 * noise[1]), np.asarray(after + 0.5 * noise[0])


def number(rng: np.random.Generator, design: Design, n: int, skew: float) -> Iterator[Drawn]:
    """Interval of a mean of numbers; of a single cell the bootstrap's."""
    while True:
        values = numbers(rng, design, n, skew)[1]
        if values.shape[:2] == (1, 1):
            yield statistics.ratio_interval(values.ravel(), np.ones(n), int(rng.integers(1 << 30))), 0.0
        else:
            yield statistics.interval(of_ones(values)), 0.0


def number_difference(rng: np.random.Generator, design: Design, n: int, skew: float) -> Iterator[Drawn]:
    """Interval of a difference of means of numbers."""
    while True:
        before, after = numbers(rng, design, n, skew)
        yield statistics.difference_interval(of_ones(before), of_ones(after)), 0.0


# Heading -> simulation and its parameter's values: true shares, or skewness.
SIMULATIONS: dict[str, tuple[Simulation, tuple[float, ...]]] = {
    "Share": (share, SHARES),
    "Difference of shares": (difference, SHARES),
    "Difference of shares of the items that count": (conditional, SHARES),
    "Mean of numbers": (number, SKEWS),
    "Difference of means of numbers": (number_difference, SKEWS),
}


def coverage(simulation: Simulation, design: Design, n: int, parameter: float, runs: int) -> float:
    """Share of simulated intervals that hold the truth."""
    seed = [n, *(round(100 * value) for value in (*astuple(design), parameter))]
    drawn = simulation(np.random.default_rng(seed), design, n, parameter)
    held = [low - 1e-12 <= truth <= high + 1e-12 for (low, high), truth in (next(drawn) for _ in range(runs))]
    return float(np.mean(held))


def row(simulation: Simulation, design: Design, parameters: tuple[float, ...], runs: int) -> list[str]:
    """A line of the table: the mean over the parameters, with the least and the most, for each n."""
    texts = []
    for n in NS:
        found = [100 * coverage(simulation, design, n, parameter, runs) for parameter in parameters]
        texts.append(f"{np.mean(found):.1f} ({min(found):.0f} to {max(found):.0f})")
    return texts


def page(runs: int) -> str:
    """The page of the documentation."""
    lines = [
        "# How often the 95 % intervals hold the truth",
        "",
        "`performance/coverage.py` makes this page. The page shows the coverage of our 95 % intervals in "
        "simulations. Each cell "
        f"is the percentage of intervals that contain the true value, with {runs} simulations per parameter. It "
        "gives the mean over the parameters, and the smallest and largest value.",
        "",
        "The parameters are the true shares (for differences: the shares of base) "
        f"{', '.join(f'{value:g}' for value in SHARES)}. For numbers, the parameters are the skewness of the "
        "questions, "
        f"{', '.join(f'{value:g}' for value in SKEWS)}. In the skewed simulations, each "
        "language has its own difficulty. Shares "
        "of n questions take few values, so no interval covers exactly 95 % at every true share. As usual, we "
        "therefore report the mean over the true shares. The shares of a method differ "
        "by "
        f"{', '.join(f'{shift:+g}' for shift in SHIFTS)} logits from the shares of base, and "
        f"{ANEW:.0%} of its answers are independent of base's. With 24 questions and shares near 0 or 1, very few "
        "answers differ. Every valid interval then has a coverage above 95 %.",
        "",
        "With one seed, the true value is the value of this seed, and the interval does not cover "
        "other seeds. With three seeds, the true value is the mean over all seeds. The table shows "
        "the standard deviation between seeds (sd, in logits for shares).",
    ]
    for heading, (simulation, parameters) in SIMULATIONS.items():
        lines += ["", f"## {heading}", "", "| design | " + " | ".join(f"n = {n}" for n in NS) + " |"]
        lines.append("|---|" + "---|" * len(NS))
        lines += [f"| {one.text} | {' | '.join(row(simulation, one, parameters, runs))} |" for one in DESIGNS]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulations per parameter (default: 1000)")
    parser.add_argument("--output", type=Path, default=Path("docs/measures/coverage.md"), help="the page")
    arguments = parser.parse_args()
    statistics.RESAMPLES = 999  # of the bootstrap: ten times as fast, and as wide
    arguments.output.write_text(page(arguments.runs))


if __name__ == "__main__":
    main()
