"""The result files that verbs write, as far as a report shows them; told apart by the fields they have."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from tfmpq.tasks.score_names import ACCURACY

Score = Annotated[FiniteFloat, Field(le=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Time = Annotated[FiniteFloat, Field(ge=0)]


class _Result(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Scored(_Result):
    """A result with a score; older ones have top-1 alone."""

    top1: Share | None = None
    score: Score | None = None
    score_name: str = ACCURACY

    @property
    def value(self) -> float:
        """The score; NaN where there is none."""
        found = self.top1 if self.score is None else self.score
        return math.nan if found is None else found

    @property
    def scored(self) -> bool:
        """Whether there is a score."""
        return not math.isnan(self.value)

    def about(self, data: str) -> str:
        """What a score says, for labels that are no classes: scores of other kinds are not compared."""
        return data if self.score_name == ACCURACY else f"{data}, {self.score_name}"


class Budget(_Result):
    """A budget and what the policy reaches."""

    key: str
    asked: str
    limit: FiniteFloat
    reached: FiniteFloat


class Costs(_Result):
    """What a network costs in float32, at uniform 8 bits, and with the policy."""

    float32: Positive = Field(alias="float")
    int8: Positive
    policy: Positive


class Latencies(_Result):
    """Milliseconds that a latency table predicts."""

    int8: Positive
    policy: Positive


class FrontPoint(_Result):
    """One policy of `tfmpq search --pareto`."""

    asked: str
    policy: str
    reached: FiniteFloat
    mean_weight_bits: FiniteFloat
    accuracy: Score
    latency: Positive | None = None


class Search(_Result):
    """`search.result.json`."""

    model: str
    budget: list[Budget]
    bits: dict[str, int] = {}
    bops: Costs
    size: Costs
    mean_weight_bits: FiniteFloat
    accuracy: dict[str, Score]
    score_name: str = ACCURACY
    search_seconds: FiniteFloat
    pareto: list[FrontPoint] = []
    latency: Latencies | None = None
    latency_conditions: str | None = None
    data_dir: str | None = None

    @field_validator("latency", mode="before")
    @classmethod
    def _without_table(cls, value: Any) -> Any:
        return value or None


class Finetune(_Scored):
    """`finetune.result.json`."""

    model: str
    data: str
    top5: Share | None
    count: int
    epochs: int
    steps: int
    size: int
    bops: FiniteFloat
    mean_weight_bits: FiniteFloat
    versions: dict[str, str] = {}
    run: str = ""
    started_from: str = ""
    source: str | None = None
    data_dir: str | None = None
    method: str = "qat"
    saq_case: int | None = None
    rho: FiniteFloat | None = None
    second_gradient_every: int | None = None


class ProcessRecord(_Result):
    """One process of a measurement."""

    started_at: str | None = None


class LayerTime(_Result):
    """Time of one layer."""

    name: str
    operator: str
    kernel: str
    weight_bits: int | None
    container: int | None
    ms: Time
    share: Share | None


class OperatorTimes(_Result):
    """What `tfmpq measure --ops` adds to a measurement."""

    source: str
    layers: list[LayerTime]
    unattributed: dict[str, Time] = {}
    resolution_ms: Time = 1e-3


class Measured(_Result):
    """Latency of one file; times are null for what a tool does not tell, and for emulations."""

    path: str
    bytes: int
    sha256: str | None = None
    median_ms: Time | None
    p10_ms: Time | None
    p90_ms: Time | None
    p99_ms: Time | None
    process_medians_ms: list[Time] | None
    spread: FiniteFloat | None
    runs: int
    threads: int | None
    runtime: dict[str, Any]
    device: dict[str, Any]
    load_ms: Time | None
    first_inference_ms: Time | None
    memory_kb: int | None
    target: dict[str, Any]
    emulated: bool
    protocol: dict[str, Any]
    warnings: list[str]
    processes: list[ProcessRecord] = []
    ops: OperatorTimes | None = None
    ops_note: str | None = None


class Compared(_Result):
    """One file's latency against that of the first."""

    path: str
    reference: str
    ratio: FiniteFloat | None
    lowest: FiniteFloat | None
    highest: FiniteFloat | None
    verdict: str | None


class Measurements(_Result):
    """What `tfmpq measure` writes of several files; one file is a `Measured`."""

    files: list[Measured]
    comparisons: list[Compared]


class JobRow(_Scored):
    """One network of the closing table of `tfmpq run`."""

    model: str
    path: str
    bytes: int
    size: int
    mean_weight_bits: FiniteFloat


class Job(_Result):
    """`job.json` of `tfmpq run`."""

    table: list[JobRow]
    measured: dict[str, Measured]


class OperatorCheck(_Result):
    """Operators of one kind, recomputed."""

    kind: str
    kernels: str
    elements: int
    off_by_one: int
    off_by_more: int
    passed: bool


class Logits(_Result):
    """Answers to real images beside the trained model's."""

    images: int
    agreement: Share | None
    exact: Share
    worst: int


class Verified(_Result):
    """What `tfmpq verify` prints."""

    passed: bool
    path: str
    against: str
    target: str
    bytes: int
    sha256: str | None = None
    integers: int
    delegate_partitions: int | None
    operators: list[OperatorCheck]
    logits: Logits | None
    failures: list[str]
    notes: list[str]


class ExportProof(_Result):
    """The proof that every export ends with."""

    passed: bool
    integers: int
    images: int
    delegate_partitions: int | None
    operators: list[OperatorCheck]
    failures: list[str]


class ExportAgreement(_Result):
    """Share of images with the trained model's class."""

    images: int
    top1: Share


class ExportedLayer(_Result):
    """How a layer's weights are written; older results say the width alone."""

    name: str
    weight_bits: int
    container: int | None = None
    bytes: int = 0
    scratch: int = 0
    reason: str = ""


class Forms(_Result):
    """What decided between the forms of layers."""

    prefer: str
    processor: str


class Quantized(_Scored):
    """A network that was quantized without training; without a score where it had no labels to answer."""

    count: int
    size: int
    bops: FiniteFloat | None = None
    mean_weight_bits: FiniteFloat


class Exported(_Result):
    """What `tfmpq export` prints."""

    path: str
    bytes: int
    sha256: str | None = None
    target: str
    layers: list[ExportedLayer]
    forms: Forms | None = None
    verification: ExportProof
    agreement: ExportAgreement | None
    calibration: str | None = None
    quantized: Quantized | None = None


class Evaluated(_Scored):
    """What `tfmpq evaluate` prints."""

    path: str
    data: str
    split: str
    count: int

    @property
    def images(self) -> str:
        """The images that were classified: accuracies on other ones are not compared."""
        return self.about(self.data if self.split == "test" else f"{self.data}, {self.split} split")


class DeviceAgreement(_Result):
    """Outputs of a device beside those of the machine that it was deployed from."""

    images: int
    max_lsb: int | None
    differing: int
    total: int
    top1_agreement: Share | None


class Delivered(_Result):
    """What `tfmpq deploy` prints."""

    source: str
    path: str
    form: str
    agreement: DeviceAgreement
    measurement: Measured


Result = Measurements | Measured | Verified | Exported | Evaluated | Delivered

KINDS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    (("agreement", "measurement", "form"), Delivered),
    (("files", "comparisons"), Measurements),
    (("median_ms", "runtime", "protocol"), Measured),
    (("against", "integers", "operators"), Verified),
    (("verification", "layers", "target"), Exported),
    (("split", "top1", "data"), Evaluated),
)
"""Fields that together only one kind has."""
