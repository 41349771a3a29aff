"""Augmentation of a whole batch on its device, with parameters of its own for each image.

Images are floats in [0, 1], before any normalisation: zero is black, which is what comes in from outside the
image, and contrast and brightness clamp to [0, 1] as torchvision does.

The order is fixed, whatever the order in the study file:

1. resized_crop, flip, scale, shear, rotate, translate, crop, elastic: composed, so that each pixel is interpolated
   once;
2. grey, contrast, brightness, color_jitter, blur;
3. trivial_augment, rand_augment, which may interpolate once more;
4. erasing;
5. mixup or cutmix.

Each transform is a function that draws parameters and one that applies them (`transforms.py`; `operations.py` for the
third). Draws depend
on the generator, the entries and the batch's shape alone, neither on the images nor on their number type.
There is no loop over images and nothing that makes the host wait for the device.

Legend: B batch, C channels, H height, W width; box_B4 and matrix_B23 as in `hpsearch.training.transforms`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Generator, Tensor

from hpsearch.errors import DataError
from hpsearch.study import augment as spec
from hpsearch.training import operations, transforms
from hpsearch.training.transforms import AFFINE, COLOUR, Size


@dataclass(frozen=True, slots=True)
class Mixed:
    """Targets of images that were mixed two by two: weight `lam_B` for `targets_a`, the rest for `targets_b`.

    Losses are mixed rather than targets, so class indices need not be made one-hot; for cross-entropy it is
    the same number, for the squared error the same gradient.
    """

    targets_a: Tensor
    targets_b: Tensor
    lam_B: Tensor

    def __len__(self) -> int:
        return len(self.lam_B)

    def __getitem__(self, rows: slice) -> "Mixed":
        return Mixed(self.targets_a[rows], self.targets_b[rows], self.lam_B[rows])

    def weigh(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns lam loss(a) + (1 - lam) loss(b), where `loss` gives one value (or one row) per sample."""
        loss_a, loss_b = loss(self.targets_a), loss(self.targets_b)
        lam = self.lam_B.to(loss_a.dtype).view(-1, *[1] * (loss_a.dim() - 1))
        return lam * loss_a + (1 - lam) * loss_b


class Augmentation:
    """The augmentation that a study file describes, for images of one size.

    Args:
        entries: what `data.augment` lists, each name at most once; those with `p = 0` are left out.
        image_size: the side of square images, or height and width.

    Raises:
        DataError: the crop's padding is as large as the image.
    """

    def __init__(self, entries: Sequence[spec.Augment], image_size: int | Size) -> None:
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._entries = {entry.name: entry for entry in entries if entry.p > 0}
        self._affine = [name for name in AFFINE if name in self._entries]
        self._exact = "elastic" not in self._entries and set(self._affine) <= {"crop", "flip"}
        moving = [entry for name, entry in self._entries.items() if name in AFFINE or name == "elastic"]
        self._partial = any(entry.p < 1 for entry in moving)
        self._tables = self._make_tables()
        self._placed: dict[tuple[str, torch.device], Tensor] = {}
        self._check_padding()

    @property
    def mixes(self) -> bool:
        """Whether targets come back as `Mixed`."""
        return "mixup" in self._entries or "cutmix" in self._entries

    @torch.no_grad()
    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor | Mixed]:
        """Returns images of the same shape and number type, and their targets.

        Args:
            images: floats of shape [B, C, H, W] in [0, 1]; they are not changed.
            targets: any tensor with B rows; it is returned itself unless `mixes`.
            generator: a generator on the images' device.

        Raises:
            DataError: the images are not floats, or have another size than this was built for.
        """
        self._check(images)
        if not self._entries:
            return images, targets
        # Coordinates and means need more digits than the half types have.
        work = images.float() if images.element_size() < 4 else images
        for apply in (self._move, self._colour, self._blur, self._operate, self._erase):
            work = apply(work, generator)
        mixed: Tensor | Mixed = targets
        if self.mixes:
            work, mixed = self._mix(work, targets, generator)
        return work.to(images.dtype), mixed

    def _move(self, images: Tensor, generator: Generator) -> Tensor:
        """Applies what moves pixels: whole pixels by copying, all else by one interpolation."""
        batch = len(images)
        drawn: dict[str, Tensor] = {
            name: AFFINE[name][0](self._entries[name], batch, self.size, generator) for name in self._affine
        }
        if self._exact:
            return self._copy(images, drawn)
        matrix_B23 = transforms.compose(
            [AFFINE[name][1](drawn[name]) for name in self._affine], batch, images
        )
        displacement = self._displacement(batch, generator)
        moved = transforms.warp(images, matrix_B23, displacement)
        if not self._partial:
            return moved
        same_B = (matrix_B23 == transforms.compose([], 1, images)).flatten(1).all(1)
        if displacement is not None:
            same_B &= (displacement == 0).flatten(1).all(1)
        return torch.where(same_B[:, None, None, None], images, moved)

    def _copy(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Mirrors and shifts by copying: exact, and faster than interpolating."""
        if isinstance(entry := self._entries.get("flip"), spec.Flip):
            for column, (share, dim) in enumerate(((entry.horizontal, 3), (entry.vertical, 2))):
                if share > 0:
                    images = transforms.mirror(images, drawn["flip"][:, column], dim)
        if isinstance(entry := self._entries.get("crop"), spec.Crop):
            images = transforms.shift(images, drawn["crop"], entry.padding)
        return images

    def _displacement(self, batch: int, generator: Generator) -> Tensor | None:
        entry = self._entries.get("elastic")
        if not isinstance(entry, spec.Elastic):
            return None
        noise = transforms.draw_elastic(entry, batch, self.size, generator)
        smooth_H, smooth_W = (self._table(name, generator.device) for name in ("smooth_H", "smooth_W"))
        return transforms.smooth(noise, smooth_H, smooth_W) * entry.alpha

    def _colour(self, images: Tensor, generator: Generator) -> Tensor:
        for name, (draw, apply) in COLOUR.items():
            if name in self._entries:
                images = apply(images, draw(self._entries[name], len(images), generator))
        return images

    def _blur(self, images: Tensor, generator: Generator) -> Tensor:
        entry = self._entries.get("blur")
        if not isinstance(entry, spec.Blur):
            return images
        # Beyond four standard deviations there is next to nothing, and beyond the image nothing to reflect.
        reach = min(ceil(4 * entry.high), min(self.size) - 1)
        return transforms.blur(images, transforms.draw_blur(entry, len(images), generator), reach)

    def _operate(self, images: Tensor, generator: Generator) -> Tensor:
        if isinstance(entry := self._entries.get("trivial_augment"), spec.TrivialAugment):
            table = self._table("trivial_augment", generator.device)
            images = operations.apply(images, *operations.draw_trivial(entry, len(images), table, generator))
        if isinstance(entry := self._entries.get("rand_augment"), spec.RandAugment):
            table = self._table("rand_augment", generator.device)
            for drawn in operations.draw_rand(entry, len(images), table, generator):
                images = operations.apply(images, *drawn)
        return images

    def _erase(self, images: Tensor, generator: Generator) -> Tensor:
        entry = self._entries.get("erasing")
        if not isinstance(entry, spec.Erasing):
            return images
        return transforms.erase(images, transforms.draw_erasing(entry, len(images), self.size, generator))

    def _mix(self, images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Mixed]:
        """Mixes each image with its neighbour: batches are shuffled already, so that any partner will do."""
        batch, lam_B, box_B4 = len(images), None, None
        if isinstance(entry := self._entries.get("mixup"), spec.Mixup):
            lam_B = transforms.draw_mixup(entry, batch, self._table("mixup", generator.device), generator)
        if isinstance(entry := self._entries.get("cutmix"), spec.Cutmix):
            table = self._table("cutmix", generator.device)
            box_B4 = transforms.draw_cutmix(entry, batch, self.size, table, generator)
        if lam_B is not None and box_B4 is not None:
            lam_B, box_B4 = transforms.choose_one(lam_B, box_B4, generator)
        partners, weight_B = images.roll(1, 0), torch.ones(batch, device=images.device)
        if lam_B is not None:
            images, weight_B = transforms.mixup(images, partners, lam_B), lam_B
        if box_B4 is not None:
            images = transforms.cutmix(images, partners, box_B4)
            weight_B = weight_B * transforms.kept_share(box_B4, self.size)
        return images, Mixed(targets, targets.roll(1, 0), weight_B)

    def _make_tables(self) -> dict[str, Tensor]:
        tables: dict[str, Tensor] = {}
        for entry in self._entries.values():
            if isinstance(entry, spec.Elastic):
                for name, side in zip(("smooth_H", "smooth_W"), self.size, strict=True):
                    tables[name] = transforms.smoothing_matrix(side, entry.sigma)
            elif isinstance(entry, spec.TrivialAugment | spec.RandAugment):
                wide = isinstance(entry, spec.TrivialAugment)
                tables[entry.name] = operations.strengths(self.size, wide)
            elif isinstance(entry, spec.Mixup | spec.Cutmix):
                tables[entry.name] = transforms.beta_quantiles(entry.alpha)
        return tables

    def _table(self, name: str, device: torch.device) -> Tensor:
        """Returns a table on the device; it travels there once."""
        if (name, device) not in self._placed:
            self._placed[name, device] = self._tables[name].to(device)
        return self._placed[name, device]

    def _check(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise DataError(f"augmentation takes floats in [0, 1] and got {images.dtype}; scale them first")
        if tuple(images.shape[-2:]) != self.size:
            raise DataError(
                f"augmentation was built for {_text(self.size)} images and got {_text(images.shape[-2:])}; "
                "build one for each image size"
            )

    def _check_padding(self) -> None:
        entry = self._entries.get("crop")
        if isinstance(entry, spec.Crop) and entry.padding >= min(self.size):
            raise DataError(
                f"data.augment.crop.padding is {entry.padding} and images are {_text(self.size)}: a crop "
                f"could miss the image; use less than {min(self.size)}"
            )


def _text(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
