"""frcnn.runtime.images.canvases: the smallest canvas that holds an image, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_artifact import TinyArtifact, profile

from frcnn.errors import ImageSizeError, UsageError
from frcnn.runtime.images.canvases import EngineCanvases, OnnxCanvases
from frcnn.spec import Manifest, Size
from frcnn.spec.engine import Profile

ManifestOf = Callable[..., Manifest]


@pytest.fixture(scope="session")
def canvases_of(manifest_of: ManifestOf) -> Callable[..., EngineCanvases]:
    def make(*profiles: Profile, canvases: tuple[Size, ...] | None = None) -> EngineCanvases:
        return EngineCanvases(TinyArtifact(manifest_of(canvases=canvases), profiles=profiles).manifest)

    return make


DYNAMIC = profile((1, 4), (64, 256), (96, 320))


@pytest.mark.parametrize(
    ("resized", "canvas"),
    [
        ((64, 96), (64, 96)),
        ((65, 97), (96, 128)),
        ((10, 10), (64, 96)),  # raised to the least
        ((10, 200), (64, 224)),
        ((256, 320), (256, 320)),
    ],
)
def test_a_dynamic_profile_takes_the_models_canvas(
    canvases_of: Callable[..., EngineCanvases], resized: Size, canvas: Size
) -> None:
    assert canvases_of(DYNAMIC).canvas_of(resized, name="it") == canvas


def test_static_profiles_have_their_own_and_the_smallest_is_taken(canvases_of: Callable[..., EngineCanvases]) -> None:
    wide, high = profile((1, 1), (64, 64), (128, 128)), profile((1, 1), (128, 128), (64, 64))
    large = profile((1, 8), (256, 256), (256, 256))
    canvases = canvases_of(large, wide, high)
    assert canvases.canvas_of((60, 100), name="it") == (64, 128)
    assert canvases.canvas_of((100, 60), name="it") == (128, 64)
    assert canvases.canvas_of((100, 100), name="it") == (256, 256)
    assert canvases.max_at_once((64, 128), 4) == 1
    assert canvases.max_at_once((256, 256), 4) == 4
    assert canvases.batch_to_run(1, (128, 64)) == (2, 1)


def test_a_minimum_is_raised_to_a_multiple_of_the_divisor(canvases_of: Callable[..., EngineCanvases]) -> None:
    assert canvases_of(profile((1, 1), (50, 128), (64, 128))).canvas_of((20, 20), name="it") == (64, 64)


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_canvas_is_held_by_a_profile_and_holds_the_image(height: int, width: int) -> None:
    from frcnn.spec import TransformSpec

    canvases = EngineCanvases.__new__(EngineCanvases)
    transform = TransformSpec(
        min_size=64, max_size=128, fixed_size=None, size_divisible=32, image_mean=(0, 0, 0), image_std=(1, 1, 1)
    )
    canvases._transform = transform  # type: ignore[misc]
    profiles = [DYNAMIC, profile((1, 1), (128, 128), (128, 128)), profile((1, 1), (33, 400), (40, 64))]
    for one in profiles:
        found = canvases._on(one, (height, width))
        if found is not None:
            assert found[0] >= height
            assert found[1] >= width
            assert one.holds(1, found)
        elif one.is_static:
            assert height > one.height.max or width > one.width.max
        else:
            needed = transform.canvas_size(height, width)
            assert needed[0] > one.height.max or needed[1] > one.width.max


def test_an_image_that_fits_no_profile_is_refused_with_the_command_for_it(
    canvases_of: Callable[..., EngineCanvases],
) -> None:
    canvases = canvases_of(profile((1, 2), (64, 64), (128, 128)), profile((1, 1), (64, 96), (64, 96)))
    with pytest.raises(ImageSizeError) as raised:
        canvases.canvas_of((128, 60), name="portrait.jpg (160x80)")
    assert "portrait.jpg (160x80): resized to 128x60 it fits none of the engine's profiles" in raised.value.message
    assert "64x128 with a batch of 1:2:2" in raised.value.message
    assert "64x64:96x96:96x96 with a batch of 1" in raised.value.message
    assert "frcnn build model.onnx" in raised.value.hint
    assert "--size 64x128,64x64:96x96:96x96,128x64" in raised.value.hint


def test_a_static_source_must_be_exported_again(canvases_of: Callable[..., EngineCanvases]) -> None:
    canvases = canvases_of(profile((1, 1), (64, 64), (128, 128)), canvases=((64, 128),))
    with pytest.raises(ImageSizeError) as raised:
        canvases.canvas_of((128, 60), name="it")
    assert "frcnn export without --size" in raised.value.hint


def test_batches_beyond_the_profiles_are_refused(canvases_of: Callable[..., EngineCanvases]) -> None:
    canvases = canvases_of(DYNAMIC)
    canvases.check_batch_size(4)
    with pytest.raises(UsageError, match="at most 4 image") as raised:
        canvases.check_batch_size(5)
    assert "--batch 1:4:5" in raised.value.hint


def test_a_batch_below_the_minimum_is_padded(canvases_of: Callable[..., EngineCanvases]) -> None:
    canvases = canvases_of(profile((4, 4), (64, 64), (64, 64)), profile((2, 2), (64, 64), (64, 64)))
    assert canvases.batch_to_run(1, (64, 64)) == (1, 2)
    assert canvases.batch_to_run(3, (64, 64)) == (0, 4)
    with pytest.raises(UsageError, match="no profile of the engine holds 5 images"):
        canvases.batch_to_run(5, (64, 64))


def test_a_model_onnx_takes_any_batch(manifest_of: ManifestOf) -> None:
    canvases = OnnxCanvases(manifest_of())
    canvases.check_batch_size(1000)
    assert canvases.max_at_once((64, 64), 1000) == 1000
