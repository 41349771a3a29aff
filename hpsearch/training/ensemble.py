"""Several kept models as one, which believes the mean of what they believe.

Legend: B batch, K classes, T regression targets.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hpsearch.errors import ModelError, refusing
from hpsearch.files.model_folder import MANIFEST
from hpsearch.text import counted
from hpsearch.training.calibration import to_probabilities
from hpsearch.training.saved import Classifier, SavedModel, load_model


class SavedEnsemble(Classifier):
    """Models that prepare images each in its own way, and answer together.

    For classes its outputs are the logarithms of the mean probabilities, so that their softmax is that mean; of several
    labels the logits of the mean probabilities; for a regression the mean of the outputs.

    Args:
        counts: how much each model counts.
        temperature: what calibrates them together.
    """

    def __init__(
        self, members: Sequence[SavedModel], counts: Sequence[int], temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.members = nn.ModuleList(members)
        self.counts = tuple(counts)
        self.classes, self.task = members[0].classes, members[0].task
        self.metadata = {
            "study": members[0].metadata.get("study", ""),
            "answer": f"an ensemble of {counted(len(members), 'model')}",
        }

    def forward(self, images: Tensor) -> Tensor:
        """Returns the outputs for images as each member takes them."""
        return self._together([member(images) for member in self.members])

    def read(self, path: str | Path, predict: str | None = None) -> list[Tensor]:
        """Reads a picture as the training pictures of each member were read, for `judge`.

        Raises:
            OSError, ValueError, SyntaxError, DataError, ModelError: as `SavedModel.read`.
        """
        return [member.read(path, predict) for member in self._models]

    def judge(self, stored: Sequence[Tensor]) -> Tensor:
        """Returns the outputs for what `read` has read."""
        return self._together([member.judge(one) for member, one in zip(self._models, stored, strict=True)])

    def to_probabilities(self, outputs: Tensor) -> Tensor:
        """Returns what the outputs mean, as `probabilities` does, calibrated by the validation part."""
        return to_probabilities(outputs.double() / self.temperature, "cross_entropy", self.task)

    @property
    def _models(self) -> list[SavedModel]:
        return [member for member in self.members if isinstance(member, SavedModel)]

    def _together(self, outputs: Sequence[Tensor]) -> Tensor:
        if not self.classes:
            return mean_of(outputs, self.counts)
        beliefs = [member.to_shares(one) for member, one in zip(self._models, outputs, strict=True)]
        return to_outputs(mean_of(beliefs, self.counts), self.task)


def to_outputs(belief_NK: Tensor, task: str) -> Tensor:
    """Returns raw outputs that mean these probabilities: logarithms for classes, logits for several labels."""
    belief_NK = belief_NK.clamp(min=1e-12)
    return belief_NK.logit(1e-12) if task == "multilabel" else belief_NK.log()


def mean_of(values: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Returns the mean of equally shaped tensors, each counted so often."""
    total = torch.stack([one * count for one, count in zip(values, counts, strict=True)])
    return total.sum(0) / sum(counts)


def load_ensemble(folder: Path, allow: tuple[str, ...] | None = None) -> SavedEnsemble:
    """Returns the ensemble that lies in a folder, on the CPU, in evaluation mode.

    Raises:
        ModelError: the folder's list is damaged, or a member cannot be loaded.
    """
    path = folder / MANIFEST
    with refusing(lambda why: ModelError(f"{path}: it cannot be read: {why}; save the ensemble again")):
        known = json.loads(path.read_text(encoding="utf-8"))
        files = [(str(one["file"]), int(one["count"])) for one in known["members"]]
        heat = float(known.get("temperature", 1.0))
    if not heat > 0 or not files or any(Path(file).name != file or count < 1 for file, count in files):
        raise ModelError(
            f"{path}: it names no members in its folder, or no temperature; save the ensemble again"
        )
    members = [load_model(folder / file, allow) for file, _ in files]
    return SavedEnsemble(members, [count for _, count in files], heat).eval()
