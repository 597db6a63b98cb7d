#include "image.h"

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
std::uint8_t to_8_bits(std::uint16_t value, bool is_grey) {
    return static_cast<std::uint8_t>(is_grey ? (value * 255U + 32767U) / 65535U : value >> 8U);
}

}  // namespace

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

Image read_image(const std::string& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
        throw ImageError(path + ": no such file", "check the path");
    }
    const cv::Mat pixels = decode(path);
    if (pixels.empty()) {
        throw ImageError(path + ": not an image that OpenCV reads", "JPEG, PNG, WebP, TIFF, BMP and PPM are read");
    }
    if (pixels.depth() != CV_8U && pixels.depth() != CV_16U) {
        throw ImageError(path + ": expected 8 or 16 bits a channel, got other values", "convert it to 8 bits");
    }
    const bool is_grey = pixels.channels() == 1;
    Image image{{pixels.rows, pixels.cols}, {}};
    image.rgb.reserve(static_cast<std::size_t>(image.size.area()) * 3);
    for (int y = 0; y < pixels.rows; ++y) {
        for (int x = 0; x < pixels.cols; ++x) {
            for (int channel = 2; channel >= 0; --channel) {  // OpenCV's order is BGR
                const int i = is_grey ? x : 3 * x + channel;
                image.rgb.push_back(pixels.depth() == CV_8U ? pixels.ptr<std::uint8_t>(y)[i]
                                                            : to_8_bits(pixels.ptr<std::uint16_t>(y)[i], is_grey));
            }
        }
    }
    return image;
}

}  // namespace frcnn
