#include "image.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>

#include "error.h"

namespace frcnn {

namespace {

// OpenCV writes reasons to std::cerr itself, more than one line of them.
class Silence {
  public:
    Silence() : buffer_(std::cerr.rdbuf(nullptr)) { cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT); }
    ~Silence() {
        std::cerr.rdbuf(buffer_);
        std::cerr.clear();
    }
    Silence(const Silence&) = delete;
    Silence& operator=(const Silence&) = delete;

  private:
    std::streambuf* buffer_;
};

cv::Mat decode(const std::string& path) {
    const Silence silence;
    try {
        return cv::imread(path, cv::IMREAD_ANYCOLOR | cv::IMREAD_ANYDEPTH);  // without alpha, upright
    } catch (const cv::Exception& error) {
        throw ImageError(path + ": the image cannot be decoded: " + error.err, "the file is damaged or too large");
    }
}

// As the Python runtime: 16-bit grey is rounded, of 16-bit colour the high byte counts.
cv::Mat to_8_bits(const cv::Mat& deep) {
    cv::Mat pixels(deep.rows, deep.cols, CV_8UC(deep.channels()));
    const bool is_grey = deep.channels() == 1;
    for (int y = 0; y < deep.rows; ++y) {
        const auto* from = deep.ptr<std::uint16_t>(y);
        std::transform(from, from + deep.cols * deep.channels(), pixels.ptr<std::uint8_t>(y), [is_grey](std::uint32_t value) {
            return static_cast<std::uint8_t>(is_grey ? (value * 255 + 32767) / 65535 : value >> 8);
        });
    }
    return pixels;
}

}  // namespace

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

Image read_image(const std::string& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
        throw ImageError(path + ": no such file", "check the path");
    }
    cv::Mat pixels = decode(path);
    if (pixels.empty()) {
        throw ImageError(path + ": not an image that OpenCV reads", "JPEG, PNG, WebP, TIFF, BMP and PPM are read");
    }
    if (pixels.depth() == CV_16U) {
        pixels = to_8_bits(pixels);
    }
    if (pixels.depth() != CV_8U) {
        throw ImageError(path + ": expected 8 or 16 bits a channel, got other values", "convert it to 8 bits");
    }
    const int red = pixels.channels() == 1 ? 0 : 2;  // grey three times, or OpenCV's order BGR turned round
    Image image{{pixels.rows, pixels.cols}, std::vector<std::uint8_t>(3 * pixels.total())};
    std::uint8_t* out = image.rgb.data();
    for (int y = 0; y < pixels.rows; ++y) {
        const auto* pixel = pixels.ptr<std::uint8_t>(y);
        for (int x = 0; x < pixels.cols; ++x, pixel += pixels.channels(), out += 3) {
            out[0] = pixel[red];
            out[1] = pixel[red / 2];
            out[2] = pixel[0];
        }
    }
    return image;
}

}  // namespace frcnn
