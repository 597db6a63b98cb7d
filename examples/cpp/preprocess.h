// An image as the network takes it; see docs/reference/preprocessing.md.
#pragma once

#include <vector>

#include "manifest.h"

namespace frcnn {

struct Prepared {
    Size resized;
    Size canvas;
    std::vector<float> pixels;  // (3, canvas height, canvas width), normalised, 0 right of and below the image
};

// Resize by torch's rule, normalise, and pad onto a canvas.
Prepared prepare(const Image& image, const Model& model, Size canvas);

// The bits of float16 values, rounded to nearest: what an fp16 model takes.
std::vector<std::uint16_t> to_float16(const std::vector<float>& values);

}  // namespace frcnn
