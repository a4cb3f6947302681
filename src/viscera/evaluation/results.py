"""All tables of an evaluation of one method or several, and their forms as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from viscera.core.errors import ConfigError
from viscera.evaluation.ranking import MethodRank, rank_methods
from viscera.evaluation.scores import Evaluation
from viscera.evaluation.significance import Comparison, compare
from viscera.evaluation.statistics import OrganSummary, summary_of
from viscera.evaluation.tables import (
    Table,
    comparison_json,
    comparison_table,
    evaluation_json,
    json_text,
    ranking_table,
    summary_csv,
    summary_table,
)

# Endings of files that tables can be written to.
FORMS = (".txt", ".csv", ".md", ".tex", ".json")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is said of some methods.

    Attributes:
        evaluations: By the method's name, in order.
        summaries: Of each.
        comparisons: The first method against the second; empty if that was not asked for.
        ranks: The methods in order; empty likewise.
    """

    evaluations: Mapping[str, Evaluation]
    summaries: Mapping[str, Sequence[OrganSummary]]
    comparisons: tuple[Comparison, ...] = ()
    ranks: tuple[MethodRank, ...] = ()

    @classmethod
    def of(cls, evaluations: Mapping[str, Evaluation], *, versus: bool = False, ranked: bool = False) -> Self:
        """The results of evaluations against the same references.

        Args:
            evaluations: By the method's name.
            versus: Test the first method against the second.
            ranked: Rank all of them.

        Raises:
            ConfigError: If there are fewer than two methods for that.
        """
        first, *others = evaluations.values()
        if versus and not others:
            raise ConfigError("comparing methods", expected="two of them", got="one", remedy="Give another one")
        return cls(
            evaluations=evaluations,
            summaries={name: summary_of(evaluation) for name, evaluation in evaluations.items()},
            comparisons=compare(first, others[0]) if versus else (),
            ranks=rank_methods(evaluations) if ranked else (),
        )

    def tables(self) -> list[Table]:
        """The summary of each method, then the comparison and the ranking."""
        names = list(self.evaluations)
        tables = [
            summary_table(self.evaluations[name], self.summaries[name], name if len(names) > 1 else "")
            for name in names
        ]
        if self.comparisons:
            tables.append(comparison_table(self.comparisons, names[0], names[1]))
        if self.ranks:
            tables.append(ranking_table(self.ranks, self.evaluations[names[0]].measures))
        return tables

    def text(self) -> str:
        """All tables for a terminal."""
        return "\n".join(table.text() for table in self.tables())

    def rendered(self, form: str) -> str:
        """All tables in one of `FORMS`; JSON holds every score too, CSV the summaries alone.

        Raises:
            ConfigError: For another form.
        """
        if form == ".txt":
            return self.text()
        if form == ".csv":
            return summary_csv(self.summaries)
        if form == ".md":
            return "\n".join(table.markdown() for table in self.tables())
        if form == ".tex":
            return "\n".join(table.latex() for table in self.tables())
        if form == ".json":
            return json_text(self._content())
        raise ConfigError("writing a table", expected=" or ".join(FORMS), got=form, remedy="Choose one of them")

    def _content(self) -> object:
        return {
            "methods": {
                name: evaluation_json(evaluation, self.summaries[name]) for name, evaluation in self.evaluations.items()
            },
            "comparison": [comparison_json(row) for row in self.comparisons],
            "ranking": [asdict(one) for one in self.ranks],
        }
