"""A protocol: the primary claims of a study, written down before the test split is touched."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Language, Name, Positive


class Endpoint(Strict):
    """What a claim is measured by.

    Attributes:
        benchmark: the benchmark that measures it on the test split.
        metric: the metric.
        language: "targets" (the mean over the target languages), "central", or a language code.
        direction: which direction is better.
        test: "superiority": the method is better; "non-inferiority": the method is worse by less than the margin.
        margin: the smallest difference that matters.
        reason: why the margin has this size.
    """

    benchmark: Name
    metric: str
    language: Literal["targets", "central"] | Language
    direction: Literal["higher", "lower"]
    test: Literal["superiority", "non-inferiority"]
    margin: Positive
    reason: str = Field(min_length=1)


class Claim(Strict):
    """One claim. A claim is shown if all of its endpoints are shown.

    Attributes:
        name: a short name.
        says: the claim as a sentence.
        method: the method that the claim is about.
        comparator: the method that it is compared with on the same items.
        endpoints: what the claim is measured by.
    """

    name: Name
    says: str = Field(min_length=1)
    method: Name
    comparator: Name = "base"
    endpoints: tuple[Endpoint, ...] = Field(min_length=1, strict=False)


class Protocol(Strict):
    """At most five claims about one backbone and setting, tested in this order.

    Attributes:
        backbone: the backbone that the claims are about.
        setting: the setting that the claims are about.
        items: number of test items per language.
        dev: benchmark -> the benchmark with the same measure on the dev split, for `lensflow power`.
        claims: the claims in the order in which they are tested. A claim is tested only if all claims before it are
            shown (fixed-sequence testing), so each test may use the whole level.
    """

    backbone: Name
    setting: Name
    items: Count
    dev: dict[Name, Name] = {}
    claims: tuple[Claim, ...] = Field(min_length=1, max_length=5, strict=False)

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [claim.name for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError("claims: two claims have the same name; rename one")
        return self

    def on_dev(self) -> Self:
        """Return the same claims, measured on the dev split.

        Raises:
            ValueError: `dev` lacks a benchmark.
        """
        plain = self.canonical()
        for claim in plain["claims"]:
            for endpoint in claim["endpoints"]:
                if (benchmark := endpoint["benchmark"]) not in self.dev:
                    raise ValueError(f"dev: names no benchmark for '{benchmark}'; add one")
                endpoint["benchmark"] = self.dev[benchmark]
        return self.model_validate(plain)
