// Image files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace frcnn {

struct Size {
    std::int64_t height = 0;
    std::int64_t width = 0;

    [[nodiscard]] std::int64_t area() const { return height * width; }
};

std::string text(Size size);  // "480x640"

struct Image {
    Size size;
    std::vector<std::uint8_t> rgb;  // (height, width, 3)
};

// Read a file as 8-bit RGB, turned upright by its EXIF orientation; alpha is dropped.
Image read_image(const std::string& path);

}  // namespace frcnn
