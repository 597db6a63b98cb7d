#include "preprocess.h"

#include <algorithm>
#include <opencv2/core.hpp>

namespace frcnn {

namespace {

// The samples of one axis: pixels before and after each target pixel's centre, and the weight of the one after.
struct Axis {
    std::vector<std::size_t> before;
    std::vector<std::size_t> after;
    std::vector<float> weight;

    Axis(std::int64_t source, std::int64_t target) {
        const double scale = static_cast<float>(source) / static_cast<float>(target);  // a float32 value
        for (std::int64_t i = 0; i < target; ++i) {
            // rounded to float32 once, as the fused multiply-add of torch
            const auto position = std::max(0.0F, static_cast<float>(scale * (static_cast<double>(i) + 0.5) - 0.5));
            const auto first = std::min(static_cast<std::int64_t>(position), source - 1);
            before.push_back(static_cast<std::size_t>(first));
            after.push_back(static_cast<std::size_t>(std::min(first + 1, source - 1)));
            weight.push_back(std::clamp(position - static_cast<float>(first), 0.0F, 1.0F));
        }
    }
};

}  // namespace

Prepared prepare(const Image& image, const Model& model, Size canvas) {
    Prepared prepared{model.resized(image.size), canvas, std::vector<float>(static_cast<std::size_t>(3 * canvas.area()))};
    const Axis rows(image.size.height, prepared.resized.height);
    const Axis columns(image.size.width, prepared.resized.width);
    const auto elements = static_cast<std::size_t>(3 * image.size.width);
    const auto canvas_width = static_cast<std::size_t>(canvas.width);
    std::vector<float> row(elements);
    for (std::size_t y = 0; y < rows.weight.size(); ++y) {
        const std::uint8_t* above = &image.rgb[rows.before[y] * elements];
        const std::uint8_t* below = &image.rgb[rows.after[y] * elements];
        for (std::size_t i = 0; i < elements; ++i) {
            row[i] = static_cast<float>(above[i]) + static_cast<float>(below[i] - above[i]) * rows.weight[y];
        }
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const auto scale = static_cast<float>(1 / (255 * model.std[channel]));
            const auto bias = static_cast<float>(-model.mean[channel] / model.std[channel]);
            float* out = &prepared.pixels[(channel * static_cast<std::size_t>(canvas.height) + y) * canvas_width];
            for (std::size_t x = 0; x < columns.weight.size(); ++x) {
                const float left = row[3 * columns.before[x] + channel];
                const float right = row[3 * columns.after[x] + channel];
                out[x] = (left + (right - left) * columns.weight[x]) * scale + bias;
            }
        }
    }
    return prepared;
}

std::vector<std::uint16_t> to_float16(const std::vector<float>& values) {
    std::vector<std::uint16_t> bits(values.size());
    cv::Mat out(cv::Size(static_cast<int>(values.size()), 1), CV_16FC1, bits.data());
    cv::Mat(values, false).reshape(1, 1).convertTo(out, CV_16F);
    return bits;
}

}  // namespace frcnn
