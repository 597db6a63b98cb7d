#include "preprocess.h"

#include <algorithm>
#include <array>
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

// Resizes a row of interleaved pixels, parts its channels and normalises it.
class Columns {
  public:
    Columns(std::int64_t source, std::int64_t target, const Model& model) : axis_(source, target) {
        for (std::size_t channel = 0; channel < 3; ++channel) {
            scale_[channel] = static_cast<float>(1 / (255 * model.std[channel]));
            bias_[channel] = static_cast<float>(-model.mean[channel] / model.std[channel]);
        }
    }

    // `next_channel`: elements from a channel of `out` to the next.
    void resize(const std::vector<float>& row, float* out, std::size_t next_channel) const {
        for (std::size_t channel = 0; channel < 3; ++channel) {
            for (std::size_t x = 0; x < axis_.weight.size(); ++x) {
                const float left = row[3 * axis_.before[x] + channel];
                const float right = row[3 * axis_.after[x] + channel];
                const float value = left + (right - left) * axis_.weight[x];
                out[channel * next_channel + x] = value * scale_[channel] + bias_[channel];
            }
        }
    }

  private:
    Axis axis_;
    std::array<float, 3> scale_{};
    std::array<float, 3> bias_{};
};

// One image and where it goes; rows and columns are taken in the order that the Python runtime takes them in.
struct Resizing {
    const Image& image;
    const Axis& rows;
    const Columns& columns;
    std::size_t width;       // of the resized image
    std::size_t next_row;    // elements from a row of the canvas to the next
    std::size_t next_plane;  // elements from a channel of the canvas to the next
    float* out;

    [[nodiscard]] std::size_t elements() const { return 3 * static_cast<std::size_t>(image.size.width); }

    void rows_first() const {
        std::vector<float> row(elements());
        for (std::size_t y = 0; y < rows.weight.size(); ++y) {
            const std::uint8_t* above = &image.rgb[rows.before[y] * elements()];
            const std::uint8_t* below = &image.rgb[rows.after[y] * elements()];
            for (std::size_t i = 0; i < row.size(); ++i) {
                row[i] = static_cast<float>(above[i]) + static_cast<float>(below[i] - above[i]) * rows.weight[y];
            }
            columns.resize(row, out + y * next_row, next_plane);
        }
    }

    void columns_first() const {
        const auto height = static_cast<std::size_t>(image.size.height);
        std::vector<float> resized(height * 3 * width);
        for (std::size_t y = 0; y < height; ++y) {
            const std::uint8_t* row = &image.rgb[y * elements()];
            columns.resize({row, row + elements()}, &resized[y * 3 * width], width);
        }
        for (std::size_t y = 0; y < rows.weight.size(); ++y) {
            for (std::size_t channel = 0; channel < 3; ++channel) {
                const float* above = &resized[(rows.before[y] * 3 + channel) * width];
                const float* below = &resized[(rows.after[y] * 3 + channel) * width];
                float* to = out + channel * next_plane + y * next_row;
                for (std::size_t x = 0; x < width; ++x) {
                    to[x] = above[x] + (below[x] - above[x]) * rows.weight[y];
                }
            }
        }
    }
};

}  // namespace

Prepared prepare(const Image& image, const Model& model, Size canvas) {
    Prepared prepared{model.resized(image.size), canvas, std::vector<float>(static_cast<std::size_t>(3 * canvas.area()))};
    const Axis rows(image.size.height, prepared.resized.height);
    const Columns columns(image.size.width, prepared.resized.width, model);
    const auto plane = static_cast<std::size_t>(canvas.area());
    const Resizing resizing{image, rows, columns, static_cast<std::size_t>(prepared.resized.width),
                            static_cast<std::size_t>(canvas.width), plane, prepared.pixels.data()};
    image.size.height < prepared.resized.height ? resizing.columns_first() : resizing.rows_first();
    return prepared;
}

std::vector<std::uint16_t> to_float16(const std::vector<float>& values) {
    std::vector<std::uint16_t> bits(values.size());
    cv::Mat out(cv::Size(static_cast<int>(values.size()), 1), CV_16FC1, bits.data());
    cv::Mat(values, false).reshape(1, 1).convertTo(out, CV_16F);
    return bits;
}

}  // namespace frcnn
