"""What ``frcnn inspect`` says of the detector in a model file, whichever kind of file that is."""

from __future__ import annotations

from frcnn.spec import Manifest, Size

__all__ = ["by", "model_facts"]


def model_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the rows on a detector: what, value.

    Args:
        manifest: that of the ``model.onnx``.
    """
    model = manifest.model
    transform, rpn, heads = model.transform, model.rpn, model.roi_heads
    sizes = (
        f"resized to {by(transform.fixed_size)}"
        if transform.fixed_size is not None
        else f"short side {transform.min_size}, long side at most {transform.max_size}"
    )
    names = ", ".join(model.labels[1:]) if model.labels is not None else "without names"
    return [
        ("architecture", model.architecture),
        ("classes", f"{model.num_classes - 1}: {names}"),
        ("images", f"{sizes} (pixels)"),
        ("normalisation", f"mean {_numbers(transform.image_mean)}, std {_numbers(transform.image_std)}"),
        (
            "proposals",
            f"{rpn.num_levels} level(s), {rpn.pre_nms_top_n} candidates a level, {rpn.post_nms_top_n} kept, "
            f"IoU {rpn.nms_thresh:g}, score {rpn.score_thresh:g}",
        ),
        (
            "detections",
            f"at most {heads.detections_per_img}, IoU {heads.nms_thresh:g}, score above {heads.score_thresh:g}",
        ),
        (
            "RoI pooling",
            f"{heads.pooler.kind} {by(heads.pooler.output_size)}, {len(heads.pooler.feature_names)} map(s)",
        ),
    ]


def by(size: Size) -> str:
    """Return a size as ``HxW``."""
    return f"{size[0]}x{size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
