"""The augmentation against torchvision's reference functions, and what it promises about its randomness."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from hpsearch.errors import DataError
from hpsearch.study import DataSpec
from hpsearch.study.augment import TRANSFORMS, Augment, check_unique
from hpsearch.training import operations, transforms
from hpsearch.training.augment import Augmentation, Mixed
from tests.gpu.waiting import no_waiting

BATCH, HEIGHT, WIDTH = 6, 20, 24
SIZE = (HEIGHT, WIDTH)
ADAPTER: TypeAdapter[Augment] = TypeAdapter(Augment)

# Strong enough that each of 64 images is seen to change.
ACTIVE: dict[str, dict[str, float]] = {
    "resized_crop": {"low": 0.2, "high": 0.8},
    "crop": {"padding": 8},
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "rotate": {"degrees": 90.0},
    "translate": {"fraction": 0.4},
    "scale": {"low": 0.5, "high": 2.0},
    "shear": {"degrees": 40.0},
    "elastic": {"alpha": 40.0, "sigma": 3.0},
    "grey": {},
    "contrast": {"strength": 0.8},
    "brightness": {"strength": 0.8},
    "color_jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.3},
    "blur": {"low": 0.5, "high": 2.0},
    "trivial_augment": {},
    "rand_augment": {"magnitude": 20},
    "erasing": {"low": 0.1, "high": 0.4},
    "mixup": {"alpha": 1.0},
    "cutmix": {"alpha": 1.0},
}


def make(name: str, **fields: float) -> Any:
    return ADAPTER.validate_python({"name": name, **ACTIVE[name], **fields})


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(batch: int = BATCH, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, channels, HEIGHT, WIDTH, generator=seeded(99), dtype=torch.float64).to(dtype)


# --- application, on fixed parameters ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("angle", "shift", "scale", "shear"),
    [
        (30.0, (0, 0), 1.0, 0.0),
        (-75.0, (0, 0), 1.0, 0.0),
        (0.0, (3, -2), 1.0, 0.0),
        (0.0, (0, 0), 1.7, 0.0),
        (0.0, (0, 0), 0.6, 0.0),
        (0.0, (0, 0), 1.0, 25.0),
        (40.0, (5, -3), 0.8, -15.0),
    ],
)
def test_affine_equals_torchvision(
    angle: float, shift: tuple[int, int], scale: float, shear: float, dtype: torch.dtype
) -> None:
    images = pictures(dtype=dtype)
    matrices = [
        transforms.scale_matrix(torch.full((BATCH,), scale, dtype=dtype)),
        transforms.shear_matrix(torch.full((BATCH,), math.radians(shear), dtype=dtype)),
        transforms.rotate_matrix(torch.full((BATCH,), math.radians(angle), dtype=dtype)),
        transforms.shift_matrix(torch.tensor([shift] * BATCH)),
    ]
    ours = transforms.warp(images, transforms.compose(matrices, BATCH, images))
    theirs = reference.affine(
        images, angle, list(shift), scale, [shear, 0.0], interpolation=reference.InterpolationMode.BILINEAR
    )
    # A place that falls on the image's edge may be in by one rounding and out by the other: hence 1e-4.
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_each_image_has_its_own_matrix() -> None:
    images, angles = pictures(), [0.0, 10.0, -20.0, 45.0, 90.0, 180.0]
    matrix = transforms.rotate_matrix(torch.tensor(angles).deg2rad())
    ours = transforms.warp(images, matrix)
    for row, angle in enumerate(angles):
        theirs = reference.affine(
            images[row], angle, [0, 0], 1.0, [0.0], interpolation=reference.InterpolationMode.BILINEAR
        )
        torch.testing.assert_close(ours[row], theirs, atol=1e-4, rtol=0)


def test_mirrored_and_shifted_images_equal_torchvision_exactly() -> None:
    images, padding = pictures(), 5
    flips = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.bool)
    shifts = torch.tensor([[0, 0], [5, -5], [-5, 5], [1, 2], [-3, -4], [0, 5]])
    ours = transforms.mirror(transforms.mirror(images, flips[:, 0], 3), flips[:, 1], 2)
    ours = transforms.shift(ours, shifts, padding)
    matrices = [transforms.flip_matrix(flips), transforms.shift_matrix(shifts)]
    warped = transforms.warp(images, transforms.compose(matrices, BATCH, images))
    for row, ((x_flip, y_flip), (x, y)) in enumerate(zip(flips.tolist(), shifts.tolist(), strict=True)):
        image = reference.horizontal_flip(images[row]) if x_flip else images[row]
        image = reference.vertical_flip(image) if y_flip else image
        padded = reference.pad(image, [padding] * 4)
        theirs = reference.crop(padded, padding - y, padding - x, HEIGHT, WIDTH)
        assert torch.equal(ours[row], theirs)
        torch.testing.assert_close(warped[row], theirs, atol=1e-5, rtol=0)


def test_elastic_equals_torchvision() -> None:
    images, alpha, sigma = pictures(), 30.0, 2.0
    noise = torch.rand(BATCH, 2, HEIGHT, WIDTH, generator=seeded()) * 2 - 1
    smooth_H, smooth_W = (transforms.smoothing_matrix(side, sigma) for side in SIZE)
    displacement = transforms.smooth(noise, smooth_H, smooth_W) * alpha
    blurred = reference.gaussian_blur(noise, [17, 17], [sigma, sigma])
    torch.testing.assert_close(displacement, blurred * alpha, atol=1e-5, rtol=0)

    ours = transforms.warp(images, transforms.compose([], BATCH, images), displacement)
    sides = torch.tensor([WIDTH, HEIGHT])
    for row in range(BATCH):
        theirs = reference.elastic(images[row], (displacement[row].permute(1, 2, 0) * 2 / sides)[None])
        torch.testing.assert_close(ours[row], theirs, atol=1e-4, rtol=0)


def test_elastic_displacement_has_the_documented_size() -> None:
    noise = torch.rand(64, 2, 40, 40, generator=seeded()) * 2 - 1
    smoother = transforms.smoothing_matrix(40, 2.0)
    middle = transforms.smooth(noise, smoother, smoother)[:, :, 8:-8, 8:-8]
    assert middle.square().mean().sqrt().item() == pytest.approx(0.163 / 2.0, rel=0.03)


@pytest.mark.parametrize(("length", "sigma"), [(1, 1.0), (2, 3.0), (5, 40.0), (28, 0.3)])
def test_smoothing_keeps_a_constant_whatever_its_width(length: int, sigma: float) -> None:
    matrix = transforms.smoothing_matrix(length, sigma)
    torch.testing.assert_close(matrix.sum(1), torch.ones(length))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["contrast", "brightness"])
def test_colour_equals_torchvision(name: str, channels: int) -> None:
    images, factors = pictures(channels=channels), [0.0, 0.4, 1.0, 1.3, 2.0, 5.0]
    ours = transforms.COLOUR[name][1](images, torch.tensor(factors))
    adjust = {"contrast": reference.adjust_contrast, "brightness": reference.adjust_brightness}[name]
    for row, factor in enumerate(factors):
        torch.testing.assert_close(ours[row], adjust(images[row], factor), atol=1e-6, rtol=0)


def test_grey_equals_torchvision() -> None:
    images, chosen = pictures(), torch.tensor([True, False, True, False, True, True])
    ours = transforms.grey(images, chosen)
    theirs = torch.where(chosen[:, None, None, None], reference.rgb_to_grayscale(images, 3), images)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_grey_of_one_channel_and_of_two() -> None:
    chosen = torch.ones(BATCH, dtype=torch.bool)
    one, two = pictures(channels=1), pictures(channels=2)
    assert transforms.grey(one, chosen) is one
    torch.testing.assert_close(transforms.grey(two, chosen), two.mean(1, keepdim=True).expand_as(two))


def test_erasing_equals_torchvision() -> None:
    images = pictures()
    boxes = [[0, 0, 5, 5], [3, 4, 10, 2], [19, 23, 1, 1], [0, 0, 20, 24], [2, 2, 0, 7], [7, 0, 13, 24]]
    ours = transforms.erase(images, torch.tensor(boxes))
    for row, (top, left, height, width) in enumerate(boxes):
        theirs = reference.erase(images[row], top, left, height, width, torch.zeros(1, 1, 1))
        assert torch.equal(ours[row], theirs)


# --- order -------------------------------------------------------------------------------------------------


def test_geometric_order_is_the_documented_one() -> None:
    """A square, quarter turns and whole pixels, so that no interpolation blurs the comparison."""
    image = torch.rand(1, 3, 16, 16, generator=seeded())
    fixed = {
        "resized_crop": torch.tensor([[1.0, 1.0, 0.0, 0.0]]),
        "flip": torch.tensor([[True, False]]),
        "scale": torch.tensor([2.0]),
        "shear": torch.tensor([math.radians(45.0)]),
        "rotate": torch.tensor([math.radians(90.0)]),
        "translate": torch.tensor([[3.0, 0.0]]),
        "crop": torch.tensor([[0, -2]]),
    }
    assert list(fixed) == list(transforms.AFFINE)
    matrix = transforms.compose([transforms.AFFINE[name][1](fixed[name]) for name in fixed], 1, image)
    push = torch.full((1, 2, 16, 16), 1.0)
    ours = transforms.warp(image, matrix, push)

    bilinear = reference.InterpolationMode.BILINEAR
    theirs = reference.affine(
        reference.horizontal_flip(image), 90.0, [3, 0], 2.0, [45.0, 0.0], interpolation=bilinear
    )
    theirs = F.pad(theirs, (0, 0, 0, 2))[:, :, 2:]
    theirs = reference.elastic(theirs, torch.full((1, 16, 16, 2), 2 / 16))
    # The last column and the rows that were shifted in come from outside after the first step, but may come
    # from inside the image in one composed step: nothing is lost in between.
    torch.testing.assert_close(ours[:, :, :13, :15], theirs[:, :, :13, :15], atol=1e-4, rtol=0)
    assert theirs[:, :, :13, :15].count_nonzero() > 100


def test_order_in_the_study_file_does_not_matter() -> None:
    entries = [make(name, p=0.7) for name in TRANSFORMS]
    images, labels = pictures(), torch.arange(BATCH)
    first, mixed = Augmentation(entries, SIZE)(images, labels, seeded())
    second, mixed_again = Augmentation(entries[::-1], SIZE)(images, labels, seeded())
    assert torch.equal(first, second)
    assert isinstance(mixed, Mixed)
    assert isinstance(mixed_again, Mixed)
    assert torch.equal(mixed.lam_B, mixed_again.lam_B)


def test_colour_comes_after_geometry_and_erasing_after_colour() -> None:
    entries = [make("rotate", degrees=45.0), make("contrast", strength=0.9), make("erasing", low=0.2)]
    generator, images = seeded(3), pictures()
    ours, _ = Augmentation(entries, SIZE)(images, torch.arange(BATCH), generator)
    generator = seeded(3)
    angle = transforms.draw_angle(entries[0], BATCH, SIZE, generator)
    factor = transforms.draw_factor(entries[1], BATCH, generator)
    box = transforms.draw_erasing(entries[2], BATCH, SIZE, generator)
    turned = transforms.warp(images, transforms.rotate_matrix(angle))
    assert torch.equal(ours, transforms.erase(transforms.contrast(turned, factor), box))


def test_elastic_displaces_by_alpha_after_the_matrix() -> None:
    entries = [make("elastic", alpha=25.0, sigma=3.0), make("rotate", degrees=45.0)]
    images = pictures()
    ours, _ = Augmentation(entries, SIZE)(images, torch.arange(BATCH), seeded(3))
    generator = seeded(3)
    matrix = transforms.rotate_matrix(transforms.draw_angle(entries[1], BATCH, SIZE, generator))
    noise = transforms.draw_elastic(entries[0], BATCH, SIZE, generator)
    smooth_H, smooth_W = (transforms.smoothing_matrix(side, 3.0) for side in SIZE)
    displacement = transforms.smooth(noise, smooth_H, smooth_W) * 25.0
    torch.testing.assert_close(ours, transforms.warp(images, matrix, displacement), atol=1e-6, rtol=0)


BILINEAR = reference.InterpolationMode.BILINEAR


def test_a_resized_crop_equals_torchvisions() -> None:
    """But for the outermost pixels, which torchvision reads inside of the part alone."""
    images = pictures()
    for top, left, height, width in ((0, 0, 20, 24), (4, 6, 10, 12), (2, 3, 15, 8)):
        centre = (top + height / 2 - HEIGHT / 2, left + width / 2 - WIDTH / 2)
        part = torch.tensor([[height / HEIGHT, width / WIDTH, *centre]] * BATCH)
        ours = transforms.warp(images, transforms.resized_crop_matrix(part))
        theirs = reference.resized_crop(
            images, top, left, height, width, [HEIGHT, WIDTH], interpolation=BILINEAR
        )
        torch.testing.assert_close(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("low", "high"), [(0.08, 1.0), (0.5, 0.5), (0.9, 1.0)])
def test_parts_lie_inside_the_image_and_have_the_area_asked_for(low: float, high: float) -> None:
    parts = transforms.draw_resized_crop(make("resized_crop", low=low, high=high), 3000, SIZE, seeded())
    tall, wide, y, x = parts.double().unbind(1)
    assert bool(
        (y.abs() <= HEIGHT * (1 - tall) / 2 + 1e-4).all() & (x.abs() <= WIDTH * (1 - wide) / 2 + 1e-4).all()
    )
    assert low - 1e-5 <= (tall * wide).min().item()
    assert (tall * wide).max().item() <= high + 1e-5
    assert (tall * wide).mean().item() == pytest.approx((low + high) / 2, abs=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_equals_torchvision(channels: int) -> None:
    images = pictures(channels=channels)
    images[0] = 0.5  # without any hue
    drawn = torch.tensor([[0.7, 1.3, 0.6, 0.2], [1.2, 0.8, 1.4, -0.4], [1.0, 1.0, 1.0, 0.5]]).repeat(2, 1)
    ours = transforms.color_jitter(images, drawn)
    for row, (light, contrast, saturation, turn) in enumerate(drawn.tolist()):
        theirs = reference.adjust_contrast(reference.adjust_brightness(images[row], light), contrast)
        if channels == 3:
            theirs = reference.adjust_hue(reference.adjust_saturation(theirs, saturation), turn)
        torch.testing.assert_close(ours[row], theirs, atol=1e-5, rtol=0)


def test_blur_equals_torchvision() -> None:
    images, sigmas = pictures(), [0.3, 0.5, 1.0, 1.5, 2.0, 0.0]
    ours = transforms.blur(images, torch.tensor(sigmas), reach=8)
    for row, sigma in enumerate(sigmas[:-1]):
        theirs = reference.gaussian_blur(images[row], [17, 17], [sigma, sigma])
        torch.testing.assert_close(ours[row], theirs, atol=1e-5, rtol=0)
    assert torch.equal(ours[-1], images[-1])


NAMES = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "color": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "auto_contrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


@pytest.mark.parametrize(("recipe", "wide"), [(v2.TrivialAugmentWide(), True), (v2.RandAugment(), False)])
@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_operations_equal_torchvisions_at_every_strength(name: str, recipe: Any, wide: bool) -> None:
    """To a byte or two, since torchvision rounds to bytes; in geometry but for the edges, which may be in or out."""
    scenes = torch.randint(0, 256, (operations.BINS, 3, HEIGHT, WIDTH), generator=seeded(), dtype=torch.uint8)
    smooth = reference.gaussian_blur(scenes, [9, 9], [2.0, 2.0])
    space, signed = recipe._AUGMENTATION_SPACE[NAMES[name]]
    wanted = space(operations.BINS, HEIGHT, WIDTH)
    row = operations.OPERATIONS.index(name)
    strength = operations.strengths(SIZE, wide)[row]
    if wanted is not None:
        torch.testing.assert_close(strength, wanted.float())
    for sign in (1, -1) if signed else (1,):
        drawn = torch.full((operations.BINS,), row), sign * strength
        ours = operations.apply(smooth.double() / 255, *drawn) * 255
        theirs = torch.stack(
            [
                recipe._apply_image_or_video_transform(
                    image, NAMES[name], float(one), BILINEAR, {Tensor: None}
                )
                for image, one in zip(smooth, sign * strength, strict=True)
            ]
        )
        difference = (ours - theirs).abs()
        moved = row in range(1, 6)
        assert (difference > 2).double().mean().item() <= (0.01 if moved else 0.0)
        assert difference.median().item() <= 1


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_every_operation_is_drawn_equally_often_and_in_both_directions(name: str) -> None:
    table = operations.strengths(SIZE, wide=True)
    if name == "trivial_augment":
        drawn = [operations.draw_trivial(make(name), 14_000, table, seeded())]
    else:
        drawn = operations.draw_rand(make(name, count=2, magnitude=30), 14_000, table, seeded())
    for operation, strength in drawn:
        counts = torch.bincount(operation, minlength=14)
        assert counts.min().item() > 850
        assert counts.max().item() < 1150
        turns = strength[operation == operations.OPERATIONS.index("rotate")]
        assert 0.4 < (turns < 0).double().mean().item() < 0.6
        assert turns.abs().max().item() == pytest.approx(135.0)


def test_rand_augment_applies_as_many_as_it_was_told() -> None:
    """Of brightened images alone, one operation hardly makes two."""
    entry = make("rand_augment", count=3, p=0.5)
    drawn = operations.draw_rand(entry, 400, operations.strengths(SIZE, wide=False), seeded())
    assert len(drawn) == 3
    alone = torch.stack([operation for operation, _ in drawn]).eq(0).all(0).double().mean().item()
    assert 0.4 < alone < 0.6


# --- draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_parameters_differ_within_a_batch(name: str) -> None:
    same = pictures(batch=1).expand(64, -1, -1, -1).clone()
    if name in ("mixup", "cutmix"):
        same[::2] = 1 - same[::2]
    result, _ = Augmentation([make(name, p=0.5)], SIZE)(same, torch.arange(64), seeded())
    kinds = len({row.numpy().tobytes() for row in result[1::2]})
    assert kinds >= {"flip": 4, "grey": 2}.get(name, 10)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_half_of_the_images_are_left_alone_to_the_bit(name: str) -> None:
    images = pictures(batch=1).expand(400, -1, -1, -1).clone()
    images[::2] = 1 - images[::2]
    certain = {"flip": {"horizontal": 1.0}}.get(name, {})
    result, _ = Augmentation([make(name, p=0.5, **certain)], SIZE)(images, torch.arange(400), seeded())
    untouched = (result == images).flatten(1).all(1).float().mean().item()
    assert 0.4 < untouched < 0.6


@pytest.mark.parametrize("name", TRANSFORMS)
def test_same_seed_same_bits_and_another_seed_others(name: str) -> None:
    augment, images, labels = Augmentation([make(name, p=0.5)], SIZE), pictures(batch=64), torch.arange(64)
    first, second, third = (augment(images, labels, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_p_zero_is_the_identity_and_draws_nothing(name: str) -> None:
    augment, images, labels, generator = (
        Augmentation([make(name, p=0.0)], SIZE), pictures(), torch.arange(BATCH), seeded()
    )  # fmt: skip
    before = generator.get_state()
    result, targets = augment(images, labels, generator)
    assert torch.equal(result, images)
    assert targets is labels
    assert not augment.mixes
    assert torch.equal(generator.get_state(), before)


def test_global_generator_is_neither_used_nor_moved() -> None:
    augment = Augmentation([make(name, p=0.5) for name in TRANSFORMS], SIZE)
    before = torch.get_rng_state()
    augment(pictures(), torch.arange(BATCH), seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_number_types_share_their_draws(dtype: torch.dtype) -> None:
    augment = Augmentation([make(name, p=0.7) for name in TRANSFORMS], SIZE)
    images = pictures(dtype=dtype)
    ours, mixed = augment(images, torch.arange(BATCH), seeded())
    single, mixed_single = augment(images.float(), torch.arange(BATCH), seeded())
    assert ours.dtype == dtype
    assert isinstance(mixed, Mixed)
    assert isinstance(mixed_single, Mixed)
    assert torch.equal(mixed.lam_B, mixed_single.lam_B)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(ours.double(), single.double(), atol=tolerance, rtol=0)


def test_images_that_come_in_are_not_changed() -> None:
    images = pictures()
    copy = images.clone()
    Augmentation([make(name) for name in TRANSFORMS], SIZE)(images, torch.arange(BATCH), seeded())
    assert torch.equal(images, copy)


@pytest.mark.parametrize(
    ("name", "fields", "low", "high"),
    [
        ("rotate", {"degrees": 30.0}, math.radians(-30), math.radians(30)),
        ("shear", {"degrees": 20.0}, math.radians(-20), math.radians(20)),
        ("scale", {"low": 0.5, "high": 1.25}, 0.5, 1.25),
        ("crop", {"padding": 3}, -3, 3),
    ],
)
def test_draws_fill_their_range(name: str, fields: dict[str, float], low: float, high: float) -> None:
    draws = transforms.AFFINE[name][0](make(name, **fields), 2000, SIZE, seeded()).double()
    assert low <= draws.min().item() + 1e-6
    assert draws.max().item() <= high + 1e-6
    assert draws.min().item() < low + 0.05 * (high - low)
    assert draws.max().item() > high - 0.05 * (high - low)


def test_translation_is_a_share_of_each_side() -> None:
    draws = transforms.draw_translate(make("translate", fraction=0.25), 4000, SIZE, seeded())
    assert draws[:, 0].abs().max().item() == pytest.approx(0.25 * WIDTH, rel=0.02)
    assert draws[:, 1].abs().max().item() == pytest.approx(0.25 * HEIGHT, rel=0.02)


@pytest.mark.parametrize("strength", [0.3, 1.5])
def test_factors_are_never_negative(strength: float) -> None:
    factors = transforms.draw_factor(make("contrast", strength=strength), 4000, seeded())
    assert factors.min().item() == pytest.approx(max(0.0, 1 - strength), abs=0.01)
    assert factors.max().item() == pytest.approx(1 + strength, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.33), (0.9, 1.0), (0.25, 0.25)])
def test_erased_boxes_fit_and_have_the_area_asked_for(low: float, high: float) -> None:
    boxes = transforms.draw_erasing(make("erasing", low=low, high=high), 3000, SIZE, seeded())
    top, left, height, width = boxes.unbind(1)
    assert bool((top >= 0).all() & (left >= 0).all())
    assert bool((top + height <= HEIGHT).all() & (left + width <= WIDTH).all())
    share = (height * width) / (HEIGHT * WIDTH)
    # A side may be rounded by half a pixel, the other is at most the image's.
    slack = 0.5 / HEIGHT + 0.5 / WIDTH
    assert low - slack < share.min().item()
    assert share.max().item() < high + slack
    assert share.mean().item() == pytest.approx((low + high) / 2, abs=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_beta_draws_follow_beta(alpha: float) -> None:
    draws = transforms.draw_beta(transforms.beta_quantiles(alpha), 5000, seeded())
    # Single precision rounds draws near 1 to 1, which the test would take for a lump: compare below 1/2.
    below = draws[draws < 0.5].double().numpy()
    assert len(below) / 5000 == pytest.approx(0.5, abs=0.03)
    assert stats.kstest(2 * stats.beta(alpha, alpha).cdf(below), "uniform").pvalue > 1e-3


def test_beta_of_one_is_the_uniform_draw_itself() -> None:
    draws = transforms.draw_beta(transforms.beta_quantiles(1.0), 500, seeded())
    torch.testing.assert_close(draws, torch.rand(500, generator=seeded()), atol=1e-6, rtol=0)


# --- mixing ------------------------------------------------------------------------------------------------


def black_and_white(batch: int) -> Tensor:
    images = torch.zeros(batch, 1, HEIGHT, WIDTH)
    images[::2] = 1.0
    return images


@pytest.mark.parametrize("names", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_weights_equal_the_share_of_each_image(names: tuple[str, ...]) -> None:
    """On black and white images in turn, the share of one's own is read off the result."""
    images, labels = black_and_white(64), torch.arange(64)
    augment = Augmentation([make(name) for name in names], SIZE)
    result, mixed = augment(images, labels, seeded())
    assert isinstance(mixed, Mixed)
    own = 1 - (result - images).abs().mean((1, 2, 3))
    torch.testing.assert_close(mixed.lam_B, own, atol=1e-5, rtol=0)
    assert torch.equal(mixed.targets_a, labels)
    assert torch.equal(mixed.targets_b, labels.roll(1))
    assert bool((mixed.lam_B >= 0).all() & (mixed.lam_B <= 1).all())
    assert mixed.lam_B.std().item() > 0.1


def test_an_image_gets_mixup_or_cutmix_never_both() -> None:
    images = black_and_white(400)
    result, _ = Augmentation([make("mixup"), make("cutmix")], SIZE)(images, torch.arange(400), seeded())
    grey = ((result > 0) & (result < 1)).flatten(1)
    blended, pasted = grey.all(1), ~grey.any(1)
    assert bool((blended | pasted).all())
    assert 150 < int(blended.sum()) < 250


def test_the_choice_leaves_alone_what_has_one_of_them() -> None:
    lam = torch.tensor([0.3, 1.0]).repeat(50)
    boxes = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]]).repeat(50, 1)
    kept_lam, kept_boxes = transforms.choose_one(lam, boxes, seeded())
    assert torch.equal(kept_lam, lam)
    assert torch.equal(kept_boxes, boxes)


def test_cutmix_pastes_its_neighbour_unchanged() -> None:
    images, boxes = pictures(), torch.tensor([[2, 3, 5, 7]] * BATCH)
    result = transforms.cutmix(images, images.roll(1, 0), boxes)
    expected = images.clone()
    expected[:, :, 2:7, 3:10] = images.roll(1, 0)[:, :, 2:7, 3:10]
    assert torch.equal(result, expected)
    torch.testing.assert_close(transforms.kept_share(boxes, SIZE), torch.full((BATCH,), 1 - 35 / 480))


def test_mixed_cross_entropy_equals_that_of_soft_targets() -> None:
    logits, labels = torch.randn(BATCH, 4, generator=seeded()), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed = Mixed(labels, labels.roll(1), torch.linspace(0, 1, BATCH))
    ours = mixed.weigh(lambda targets: F.cross_entropy(logits, targets, reduction="none"))
    lam = mixed.lam_B[:, None]
    soft = lam * F.one_hot(labels, 4) + (1 - lam) * F.one_hot(labels.roll(1), 4)
    torch.testing.assert_close(ours, F.cross_entropy(logits, soft, reduction="none"))


def test_mixed_squared_error_has_the_gradient_of_mixed_targets() -> None:
    outputs, values = torch.randn(BATCH, 2, generator=seeded()), torch.rand(BATCH, 2, generator=seeded(1))
    mixed = Mixed(values, values.roll(1, 0), torch.linspace(0, 1, BATCH))
    outputs.requires_grad_()
    mixed.weigh(lambda targets: (outputs - targets) ** 2).sum().backward()
    lam = mixed.lam_B[:, None]
    expected = 2 * (outputs.detach() - lam * values - (1 - lam) * values.roll(1, 0))
    torch.testing.assert_close(outputs.grad, expected)


def test_rows_of_mixed_targets() -> None:
    mixed = Mixed(torch.arange(4), torch.arange(4).roll(1), torch.linspace(0, 1, 4))
    part = mixed[1:3]
    assert len(part) == 2
    assert part.targets_a.tolist() == [1, 2]
    assert part.targets_b.tolist() == [0, 1]
    assert torch.equal(part.lam_B, mixed.lam_B[1:3])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_batch_of_one_image(name: str) -> None:
    result, _ = Augmentation([make(name)], SIZE)(pictures(batch=1), torch.arange(1), seeded())
    assert result.shape == (1, 3, HEIGHT, WIDTH)
    assert bool(result.isfinite().all())


# --- what the user may write -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "elastc"}, 'unknown transform "elastc"; did you mean "elastic"'),
        ({"alpha": 3.0}, "needs a name"),
        ({"name": ["flip"]}, "needs a name"),
        ({"name": "rotate", "degrees": 181.0}, "less than or equal to 180"),
        ({"name": "rotate", "p": 1.5}, "less than or equal to 1"),
        ({"name": "rotate", "angle": 3.0}, "Extra inputs"),
        ({"name": "scale", "low": 1.2, "high": 1.1}, "low is 1.2 and high is 1.1"),
        ({"name": "erasing", "low": 0.5, "high": 0.2}, "low is 0.5 and high is 0.2"),
        ({"name": "elastic", "sigma": 0.0}, "greater than 0"),
        ({"name": "crop", "padding": -1}, "greater than or equal to 0"),
        ({"name": "mixup", "alpha": 0.0}, "greater than or equal to 0.01"),
        ("flip", "valid dictionary"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_reason(table: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        ADAPTER.validate_python(table)


def test_defaults_are_valid_and_every_name_is_in_the_union() -> None:
    for name, section in TRANSFORMS.items():
        entry = ADAPTER.validate_python({"name": name})
        assert type(entry) is section
        assert entry.p == 1.0


def test_a_preset_is_a_list_with_a_name() -> None:
    spec = DataSpec.model_validate({"augment": "photo"})
    assert [entry.name for entry in spec.augment] == ["resized_crop", "flip", "color_jitter"]
    with pytest.raises(ValidationError, match='unknown preset "foto"; did you mean "photo"'):
        DataSpec.model_validate({"augment": "foto"})


def test_a_transform_is_listed_once() -> None:
    entries = (make("flip"), make("crop"))
    assert check_unique(entries) is entries
    with pytest.raises(ValueError, match='"flip" is listed 2 times'):
        check_unique((*entries, make("flip")))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 9, 9), "built for 20 x 24 images and got 9 x 9"),
        (torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Augmentation([make("flip")], SIZE)(images, torch.arange(2), seeded())


def test_a_crop_that_could_miss_the_image_is_refused() -> None:
    with pytest.raises(DataError, match="padding is 20"):
        Augmentation([make("crop", padding=20)], SIZE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_host_never_waits_for_the_device() -> None:
    augment = Augmentation([make(name, p=0.7) for name in TRANSFORMS], SIZE)
    images, labels = pictures().cuda(), torch.arange(BATCH).cuda()
    generator = Generator("cuda").manual_seed(0)
    augment(images, labels, generator)  # tables travel to the device once
    with no_waiting():
        augment(images, labels, generator)
