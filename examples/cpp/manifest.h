// The manifests that frcnn writes, as far as a detection needs them; see docs/reference/formats.md.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "image.h"

namespace frcnn {

inline constexpr const char* manifest_key = "frcnn.manifest";  // in the metadata of a model.onnx

struct Model {
    double min_size = 0;
    double max_size = 0;
    std::optional<Size> fixed_size;
    std::int64_t size_divisible = 0;
    std::array<double, 3> mean{};
    std::array<double, 3> std{};
    std::vector<std::string> labels;  // index 0 is the background; empty where classes have no names
    std::int64_t num_classes = 0;

    // The size that an image is resized to.
    [[nodiscard]] Size resized(Size image) const;
    // The smallest canvas that holds a resized image, if any canvas may be taken.
    [[nodiscard]] Size canvas(Size resized) const;
};

struct OnnxManifest {
    Model model;
    std::optional<std::vector<Size>> canvases;  // none: any that is a multiple of size_divisible

    static OnnxManifest parse(const std::string& json, const std::string& source);
    [[nodiscard]] std::optional<Size> canvas_for(Size resized) const;
};

struct Range {
    std::int64_t min = 0;
    std::int64_t max = 0;

    [[nodiscard]] bool holds(std::int64_t value) const { return min <= value && value <= max; }
};

struct Profile {
    Range batch;
    Range height;
    Range width;
};

struct EngineManifest {
    Model model;
    std::string plan;  // the only engine, a path in the folder
    std::vector<Profile> profiles;

    static EngineManifest parse(const std::string& json, const std::string& source);
    [[nodiscard]] std::optional<Size> canvas_for(Size resized) const;
    // The first profile that holds one canvas, static ones first.
    [[nodiscard]] std::size_t profile_for(Size canvas) const;
};

}  // namespace frcnn
