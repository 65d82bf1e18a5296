"""What a compression can be asked for.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfmpq.graph.file_request import NO_FILE_WISHES, FileRequest
from tfmpq.graph.forms import NO_WISHES, FormRequest
from tfmpq.methods.common_options import DataOptions, PreprocessOptions, budgets_option
from tfmpq.options import option

DEFAULT_DROP = "1%"


@dataclass(frozen=True, kw_only=True)
class CompressOptions(PreprocessOptions, DataOptions):
    """The options of `tfmpq.compress`, each described in `tfmpq compress --help` and docs/cli.md."""

    budgets: tuple[str, ...] = budgets_option(
        "The best file within size, bops or weight-bits", shown="the smallest file within --max-drop"
    )
    max_drop: str | None = option(
        None,
        "text",
        "The smallest file that loses no more points of top-1 on held-out images; without labels, of "
        "agreement with the float model.",
        shown=f"{DEFAULT_DROP} without a budget",
        metavar="POINTS%",
        recorded="never",
    )
    confidence: float = option(
        0.95,
        "number",
        "How sure the drop has to be within --max-drop: its one-sided confidence bound counts.",
        metavar="SHARE",
        least=0.5,
        most=1,
        open=True,
        recorded="never",
    )
    limit: int = option(
        5000, "whole", "Most held-out images to score on.", metavar="N", least=1, recorded="never"
    )
    weight_bits: tuple[int, ...] = option((2, 4, 8), "bits", "Weight bit-widths to choose from.")
    forms: FormRequest = option(
        NO_WISHES, "object", "What decides where layers have a choice of forms.", recorded="never"
    )
    file: FileRequest = option(NO_FILE_WISHES, "object", "Types and labels of the file.", recorded="never")
